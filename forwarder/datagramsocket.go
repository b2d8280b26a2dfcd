package forwarder

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// datagramOwner is told what a datagramSocket receives, errors included.
type datagramOwner interface {
	sockio.DatagramOwner
	passError(*sockio.QueuedError)
}

// datagramSocket is a host socket for datagrams or echo messages, and the interest of
// the shard in it.
type datagramSocket struct {
	sockio.DatagramSocket
	f      *Forwarder
	owner  datagramOwner
	watch  *shard.Watch
	queued bool // runnable again in the next turn
}

// open opens a socket towards an address, or at least its family. proto is zero for
// UDP. If it fails the socket is a closed one.
func (s *datagramSocket) open(f *Forwarder, owner datagramOwner, addr netip.Addr, typ, proto int) unix.Errno {
	s.FD = -1
	fd, errno := f.socket(addr, typ, proto)
	if errno != 0 {
		return errno
	}
	echo := proto != 0
	setDatagramOptions(fd, echo, addr.Is6())
	if f.cfg.Plan.Outside && addr.Is4() && !echo {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) // the guest is among the host's neighbours
	}
	w, err := f.cfg.Shard.Watch(fd, unix.EPOLLIN|unix.EPOLLET, s)
	if err != nil {
		unix.Close(fd)
		return unix.ENOBUFS
	}
	s.f, s.owner, s.watch = f, owner, w
	s.DatagramSocket = sockio.DatagramSocket{FD: fd, Owner: owner, Control: echo}
	return 0
}

func (s *datagramSocket) close() {
	if s.FD >= 0 {
		s.watch.Forget()
		unix.Close(s.FD)
		s.FD = -1
	}
}

// Ready implements shard.Handler.
func (s *datagramSocket) Ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		s.ReadErrors(s.owner.passError)
	}
	if events&unix.EPOLLIN != 0 && !s.queued {
		s.receive()
	}
}

// Run implements shard.Task: another turn for a socket with datagrams left.
func (s *datagramSocket) Run() {
	s.queued = false
	if s.FD >= 0 {
		s.receive()
	}
}

// receive takes what has arrived, and asks for another turn if there may be more.
func (s *datagramSocket) receive() {
	if _, more := s.f.cfg.Batch.Read(&s.DatagramSocket); more {
		s.queued = true
		s.f.cfg.Shard.Again(s)
	}
}

// setDatagramOptions has errors and, of echo replies, the TTL come with what is
// received. A burst of 200 full-sized datagrams weighs 460 kB in the receive buffer.
func setDatagramOptions(fd int, echo, v6 bool) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sockio.ReceiveBuffer)
	level, recverr := unix.IPPROTO_IP, unix.IP_RECVERR
	recvttl := unix.IP_RECVTTL
	if v6 {
		level, recverr, recvttl = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_RECVHOPLIMIT
		unix.SetsockoptInt(fd, level, unix.IPV6_V6ONLY, 1)
	}
	unix.SetsockoptInt(fd, level, recverr, 1)
	if echo {
		unix.SetsockoptInt(fd, level, recvttl, 1)
	}
}
