package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket asks about one network namespace. Only one goroutine may call its methods at a time.
type Socket struct {
	fd       int
	sequence uint32
	buffer   []byte
}

// Open makes a Socket for our own namespace.
func Open() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	return New(fd), nil
}

// New takes over a socket of AF_NETLINK and NETLINK_SOCK_DIAG, which asks about the
// namespace that it was made in.
func New(fd int) *Socket { return &Socket{fd: fd} }

// Close closes the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// patience bounds the wait for a part of the kernel's answer. The kernel answers at once; a
// socket that keeps us waiting is not sock_diag's.
const patience = time.Second

// Ports adds the ports of proto (unix.IPPROTO_TCP or _UDP), of both families, that have a
// server at an address for which wanted returns true.
func (s *Socket) Ports(proto uint8, into *Ports, wanted func(netip.Addr) bool) error {
	for _, family := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		err := s.dump(family, proto, into, wanted)
		if err != nil && !(family == unix.AF_INET6 && errors.Is(err, unix.ENOENT)) { // no module for it
			return fmt.Errorf("list sockets of protocol %d: %w", proto, err)
		}
	}
	return nil
}

// request is struct nlmsghdr with struct inet_diag_req_v2 (linux/inet_diag.h).
type request struct {
	header unix.NlMsghdr
	family uint8
	proto  uint8
	ext    uint8
	_      uint8
	states uint32
	_      socketID
}

// socketID is struct inet_diag_sockid, ports and addresses in network byte order.
type socketID struct {
	sport, dport [2]byte
	src, dst     [16]byte
	device       uint32
	cookie       [2]uint32
}

// message is the beginning of struct inet_diag_msg.
type message struct {
	family, state, timer, retrans uint8
	id                            socketID
}

func (s *Socket) dump(family, proto uint8, into *Ports, wanted func(netip.Addr) bool) error {
	s.sequence++
	r := request{
		header: unix.NlMsghdr{Len: uint32(unsafe.Sizeof(request{})), Type: unix.SOCK_DIAG_BY_FAMILY, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP, Seq: s.sequence},
		family: family, proto: proto, states: 1 << unix.BPF_TCP_LISTEN,
	}
	if proto == unix.IPPROTO_UDP {
		r.states = 1 << unix.BPF_TCP_CLOSE // the state of UDP sockets that are not connected
	}
	b := (*[unsafe.Sizeof(request{})]byte)(unsafe.Pointer(&r))[:]
	if err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if s.buffer == nil {
		s.buffer = make([]byte, 32<<10) // as much as the kernel gives at a time
	}
	for {
		n, err := s.receive()
		if err != nil {
			return err
		}
		done, err := s.read(s.buffer[:n], into, wanted)
		if done || err != nil {
			return err
		}
	}
}

func (s *Socket) receive() (int, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buffer, unix.MSG_DONTWAIT)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN:
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
			if n == 0 || err != nil && err != unix.EINTR {
				return 0, errors.New("the kernel does not answer")
			}
		default:
			return n, err
		}
	}
}

// read notes the ports of one part of an answer, and reports whether it was the last.
func (s *Socket) read(b []byte, into *Ports, wanted func(netip.Addr) bool) (done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return false, err
	}
	for _, m := range messages {
		if m.Header.Seq != s.sequence {
			continue // left over from an abandoned dump
		}
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return false, errors.New("an error without a number")
			}
			return true, unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		}
		if len(m.Data) < int(unsafe.Sizeof(message{})) {
			continue
		}
		d := (*message)(unsafe.Pointer(&m.Data[0]))
		port := uint16(d.id.sport[0])<<8 | uint16(d.id.sport[1])
		if port != 0 && (wanted == nil || wanted(d.address())) {
			into.Add(port)
		}
	}
	return false, nil
}

// address returns the address that the socket is bound to.
func (d *message) address() netip.Addr {
	if d.family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(d.id.src[:4]))
	}
	return netip.AddrFrom16(d.id.src).Unmap()
}
