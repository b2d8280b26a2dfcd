package portfwd

import (
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// sessionIdle is how long a silent client may still be answered: as long as for
// mappings of the guest's own datagrams.
const sessionIdle = 240 * time.Second

// udpPort is a published UDP port.
type udpPort struct {
	datagramPort
	guest netip.AddrPort
	avoid time.Duration // no client is the guest itself before
}

func (m *Manager) newUDPPort(fd int, guest netip.AddrPort) *udpPort {
	u := &udpPort{guest: guest}
	u.datagramPort = m.listenDatagrams(fd, u)
	return u
}

// session is one client of one published UDP port.
type session struct {
	port   *udpPort
	record *flow.Flow
	client sockio.Addr // as the host knows it
	asked  []byte      // control message that makes replies leave from the address asked
}

// Received implements sockio.DatagramOwner.
func (u *udpPort) Received(from *sockio.Addr, control []byte, segment int, parts [][]byte) {
	client := from.AddrPort()
	d := u.m.decide(unix.IPPROTO_UDP, client, u.m.destination(u.guest, client.Addr()), u.sockets(from) != nil)
	u.decided(d, *from, control, segment, parts)
}

// decided acts on the decision about datagrams.
func (u *udpPort) decided(d policy.Decision, from sockio.Addr, control []byte, segment int, parts [][]byte) {
	switch {
	case d.Action == policy.Allow && d.Inside:
		u.deliverInside(from, control, d, segment, parts)
	case d.Action == policy.Allow:
		u.deliver(from, control, d, segment, parts)
	case d.Action == policy.Wait:
		u.hold(from, control, d.Pending, segment, parts)
	}
}

// hold keeps a copy of datagrams until the decision about them.
func (u *udpPort) hold(from sockio.Addr, control []byte, p *policy.Pending, segment int, parts [][]byte) {
	var whole []byte
	for _, part := range parts {
		whole = append(whole, part...)
	}
	control = append([]byte(nil), control...)
	guest := u.m.cfg.Guests.Of(u.m.destination(u.guest, from.AddrPort().Addr()).Addr())
	u.m.backlog.Hold(guest, p, len(whole), func(d policy.Decision) {
		if u.socket.FD >= 0 {
			u.decided(d, from, control, segment, [][]byte{whole})
		}
	})
}

// deliver sends datagrams of a client to the guest.
func (u *udpPort) deliver(client sockio.Addr, control []byte, d policy.Decision, segment int, parts [][]byte) {
	s := u.session(client, d)
	s.asked = replyFrom(s.asked[:0], control)
	u.m.cfg.Table.Used(s.record)
	for _, p := range parts {
		s.record.In += uint64(len(p))
	}
	u.m.cfg.Stack.SendUDPs(s.record.Remote, s.record.Src, segment, parts...)
}

const (
	// Clients that are seen as the gateway may have the same port. Later ones get
	// another, some steps of a prime away, far from the ports that clients choose
	// one after the other.
	portProbes = 8
	portStep   = 7919
)

// session finds or makes the session of a client.
func (u *udpPort) session(client sockio.Addr, d policy.Decision) *session {
	t := u.m.cfg.Table
	for i := range portProbes {
		seen := netip.AddrPortFrom(d.From.Addr(), d.From.Port()+uint16(i*portStep))
		r := t.Find(flow.Session, unix.IPPROTO_UDP, d.To, seen)
		if r == nil && seen.Port() != 0 {
			return u.newSession(client, d, seen)
		}
		if r != nil {
			if s := r.Owner.(*session); s.port == u && s.client == client {
				return s
			}
		}
	}
	// All are taken: the guest cannot tell the clients apart, and the one that sent
	// last gets the answers.
	if r := t.Find(flow.Session, unix.IPPROTO_UDP, d.To, d.From); r != nil {
		r.Owner.(*session).end()
	}
	return u.newSession(client, d, d.From)
}

func (u *udpPort) newSession(client sockio.Addr, d policy.Decision, seen netip.AddrPort) *session {
	guest := d.To
	cfg := &u.m.cfg
	cfg.Table.Admit(flow.Session)
	s := &session{port: u, client: client}
	s.record = &flow.Flow{
		Owner: s, Guest: cfg.Guests.Of(guest.Addr()), Kind: flow.Session, Origin: flow.FromPublished, Proto: unix.IPPROTO_UDP,
		Src: guest, Remote: seen, FD: u.socket.FD, Idle: sessionIdle, State: flow.Published,
	}
	cfg.Table.Add(s.record)
	if d.Watch != nil {
		d.Watch.Flow(s.record, guest)
	}
	if cfg.Claims != nil {
		cfg.Claims.Claim(unix.IPPROTO_UDP, guest, seen)
	}
	return s
}

// Client is the client as the host knows it; package gate asks for it.
func (s *session) Client() netip.AddrPort { return s.client.AddrPort() }

func (s *session) end() {
	s.port.m.cfg.Table.Remove(s.record)
	s.End(flow.Evicted)
}

// End implements flow.Owner.
func (s *session) End(flow.Reason) {
	if c := s.port.m.cfg.Claims; c != nil {
		c.Release(unix.IPPROTO_UDP, s.record.Src, s.record.Remote)
	}
}

// endSessions ends the sessions of ports that are closed.
func (m *Manager) endSessions() {
	m.cfg.Table.Each(flow.Session, func(f *flow.Flow) {
		if s := f.Owner.(*session); s.port.socket.FD < 0 {
			s.end()
		}
	})
	m.cfg.Table.Each(flow.Mapping, func(f *flow.Flow) {
		if e, ok := f.Owner.(*datagramClient); ok && e.port.socket.FD < 0 {
			e.end()
		}
	})
}

// Reply passes on a datagram of the guest that answers a client of a published port,
// and reports whether it is one. The next flush of the Batch sends it. Shard's thread
// only.
func (m *Manager) Reply(p *stack.Packet, src, dst netip.AddrPort) bool {
	r := m.cfg.Table.Find(flow.Session, unix.IPPROTO_UDP, src, dst)
	if r == nil {
		return false
	}
	s := r.Owner.(*session)
	m.cfg.Table.Used(r)
	d := sockio.Datagram{To: s.client, Payload: [2][]byte{p.Head[8:], p.Tail}, Segment: p.SegmentSize, Source: s.asked}
	r.Out += uint64(d.Size())
	m.cfg.Batch.Queue(&s.port.socket, &d)
	if len(p.Tail) > 0 || !p.Fresh {
		m.cfg.Batch.Flush() // the next frame is read over the tail
	}
	return true
}

// replyFrom turns the destination that the kernel reported into the source to use for
// replies (ip(7), ipv6(7)): on a host with several addresses a client accepts an answer
// only from the one that it asked. A dual-stack socket reports both forms for IPv4, and
// takes the first in replies.
func replyFrom(b, control []byte) []byte {
	if d := sockio.FindControl(control, unix.IPPROTO_IP, unix.IP_PKTINFO); len(d) >= unix.SizeofInet4Pktinfo {
		// Spec_dst is the address asked, or for a broadcast the interface's own; the
		// routing table chooses the interface.
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
