package portfwd

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// replyRun is the replies of one session that wait for the end of the batch, or
// for one that does not continue them: all of one size, but for the last, which
// may be shorter. The payloads lie in the stack's buffers, which are stable
// until then.
type replyRun struct {
	session *session // nil: none wait
	segment int
	total   int
	vecs    []unix.Iovec
	control []byte
}

// Reply takes a datagram of the guest that answers a client of a published
// port, and reports whether it is one. It may wait until Flush. Shard's thread
// only.
func (m *Manager) Reply(p *stack.Packet, src, dst netip.AddrPort) bool {
	if len(m.sessions.byKey) == 0 {
		return false
	}
	s := m.sessions.byKey[sessionKey{guest: src, client: dst}]
	if s == nil {
		return false
	}
	s.touch()
	data := p.Head[8:]
	s.counters.Out += uint64(len(data) + len(p.Tail))
	r := &m.sessions.run
	if p.SegmentSize > 0 || !p.Fresh || len(data) == 0 || len(p.Tail) > 0 || s.socket.single {
		m.Flush()
		r.add(s, data, p.Tail)
		r.segment = int(p.SegmentSize)
		m.Flush()
		return true
	}
	if !r.continuedBy(s, data) {
		m.Flush()
		r.segment = len(data)
	}
	r.add(s, data)
	return true
}

// continuedBy reports whether a datagram may go as part of the run.
func (r *replyRun) continuedBy(s *session, data []byte) bool {
	return r.session == s && len(data) <= r.segment && r.total%r.segment == 0 &&
		r.total+len(data) <= sockio.RunBytes && len(r.vecs) < sockio.RunMax
}

func (r *replyRun) add(s *session, data ...[]byte) {
	r.session = s
	for _, d := range data {
		r.vecs = append(r.vecs, sockio.Vec(d))
		r.total += len(d)
	}
}

// Flush sends the replies that wait. Those that the host has no room for are
// lost, as on any network. Shard's thread only.
func (m *Manager) Flush() {
	r := &m.sessions.run
	if r.session == nil {
		return
	}
	if s := r.session; s.socket.fd >= 0 {
		r.control = append(r.control[:0], s.asked...)
		r.send(s)
	}
	clear(r.vecs)
	r.session, r.segment, r.total, r.vecs = nil, 0, 0, r.vecs[:0]
}

func (r *replyRun) send(s *session) {
	if r.total <= r.segment || r.segment == 0 {
		r.sendMessage(s, r.vecs)
		return
	}
	plain := len(r.control)
	var size [2]byte
	binary.NativeEndian.PutUint16(size[:], uint16(r.segment))
	r.control = sockio.AppendControl(r.control, unix.SOL_UDP, unix.UDP_SEGMENT, size[:])
	errno := r.sendMessage(s, r.vecs)
	if !sockio.CannotSegment(errno) {
		return
	}
	// As over a link that fragments. It is not tried again on this socket, but
	// for what the guest left to be cut.
	s.socket.single = true
	r.control = r.control[:plain]
	var whole []byte
	for _, v := range r.vecs {
		whole = append(whole, unsafe.Slice(v.Base, v.Len)...)
	}
	for len(whole) > 0 {
		n := min(r.segment, len(whole))
		r.sendMessage(s, []unix.Iovec{sockio.Vec(whole[:n])})
		whole = whole[n:]
	}
}

func (r *replyRun) sendMessage(s *session, vecs []unix.Iovec) unix.Errno {
	h := unix.Msghdr{Iov: &vecs[0], Iovlen: uint64(len(vecs))}
	s.client.Name(&h)
	if len(r.control) > 0 {
		h.Control = &r.control[0]
		h.SetControllen(len(r.control))
	}
	errno := sockio.SendMessage(s.socket.fd, &h)
	if errno != 0 && errno != unix.EAGAIN {
		// An earlier datagram's error, or this one's; a second try tells.
		errno = sockio.SendMessage(s.socket.fd, &h)
	}
	return errno
}

// replyFrom turns the destination that the kernel reported into the source
// that it is to use for replies (ip(7), ipv6(7)): on a host with several
// addresses a client takes no answer from another one than it asked.
func replyFrom(b, control []byte) []byte {
	if d := sockio.FindControl(control, unix.IPPROTO_IP, unix.IP_PKTINFO); len(d) >= unix.SizeofInet4Pktinfo {
		// Spec_dst is the address asked, or for a broadcast the interface's own;
		// the interface is for the routing table to choose.
		info := *(*unix.Inet4Pktinfo)(unsafe.Pointer(&d[0]))
		info.Addr, info.Ifindex = [4]byte{}, 0
		return sockio.AppendControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, (*[unix.SizeofInet4Pktinfo]byte)(unsafe.Pointer(&info))[:])
	}
	if d := sockio.FindControl(control, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO); len(d) >= unix.SizeofInet6Pktinfo {
		info := *(*unix.Inet6Pktinfo)(unsafe.Pointer(&d[0]))
		switch asked := netip.AddrFrom16(info.Addr); {
		case asked.IsMulticast():
			info.Addr = [16]byte{}
		case !asked.IsLinkLocalUnicast():
			info.Ifindex = 0
		}
		return sockio.AppendControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, (*[unix.SizeofInet6Pktinfo]byte)(unsafe.Pointer(&info))[:])
	}
	return b
}
