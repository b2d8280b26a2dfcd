package forwarder

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// sendDatagram sends a datagram of the guest, now or with the rest of its
// batch.
func (f *Forwarder) sendDatagram(p *stack.Packet, src, to netip.AddrPort) {
	idle := mappingIdle
	if to.Port() == portDNS {
		idle = mappingIdleDNS
	}
	m, errno := f.mapping(mappingKey{stack.ProtoUDP, src}, idle)
	if errno != 0 {
		q := p.Quote()
		f.tellUnreachable(errno, netip.Addr{}, &q)
		return
	}
	d := outDatagram{to: to, payload: [2][]byte{p.Head[8:], p.Tail}, ttl: p.TTL, segment: p.SegmentSize}
	if len(m.pending) == 0 {
		f.batch.dirty = append(f.batch.dirty, m)
	}
	m.pending = append(m.pending, d)
	if len(p.Tail) > 0 || !p.Fresh || len(m.pending) == runMax {
		f.flushDatagrams() // the tail is read over by the next frame
	}
}

// quote identifies to the guest the packet of its that was sent to the host's
// to, with a payload that begins with data and has size bytes in all. Of an
// echo request the payload is the ICMP message itself.
func (m *mapping) quote(to netip.AddrPort, data []byte, size int) (stack.Quote, bool) {
	seen, ok := m.f.guestView(m.key.guest.Addr(), to)
	if !ok {
		return stack.Quote{}, false
	}
	q := stack.UDPQuote(m.key.guest, seen, size)
	if m.key.proto != stack.ProtoUDP {
		q.Proto = m.key.proto
		if copy(q.Transport[:], data) < len(q.Transport) {
			return stack.Quote{}, false
		}
		binary.BigEndian.PutUint16(q.Transport[4:], m.key.guest.Port())
	}
	return q, true
}

// receive takes what has arrived for the mapping and sends it to the guest.
func (m *mapping) receive() {
	begun := m.counters.In
	for range sockio.TurnBatches {
		n := m.receiveBatch()
		if n < sockio.BatchSize || m.fd < 0 {
			return // an edge tells of more
		}
		if m.counters.In-begun >= sockio.TurnBytes {
			break
		}
	}
	// More is waiting, perhaps: take it in the next turn.
	m.f.shard.Again(receiveAgain{m})
}

type receiveAgain struct{ m *mapping }

func (r receiveAgain) Run() {
	if r.m.fd >= 0 {
		r.m.receive()
	}
}

func (m *mapping) receiveBatch() int {
	b := &m.f.batch
	echo := m.key.proto != stack.ProtoUDP
	n, errno := b.Receive(m.fd, echo || m.joined)
	if errno != 0 {
		return 0 // EAGAIN, or an error that the error queue tells better
	}
	m.used()
	if echo {
		m.receiveEchoes(n)
		return n
	}
	for i := 0; i < n; {
		from := b.Addrs[i].AddrPort()
		segment, parts, next := b.Run(i, n)
		for ; i < next; i++ {
			m.counters.In += uint64(b.Msgs[i].Len)
		}
		if seen, ok := m.f.guestView(m.key.guest.Addr(), from); ok && len(parts) > 0 {
			m.f.stack.SendUDPs(seen, m.key.guest, segment, parts...)
		}
	}
	if n > 1 && !m.joined {
		// A query and its answer do without this call, and most mappings see
		// nothing else.
		m.joined = true
		sockio.Join(m.fd)
	}
	return n
}

// guestView is the address and port under which the guest knows what the host
// knows as peer. A guest that asked from a link-local address asked the
// gateway's.
func (f *Forwarder) guestView(guest netip.Addr, peer netip.AddrPort) (netip.AddrPort, bool) {
	a, ok := f.rules.TranslateSource(peer.Addr())
	if guest.Is6() && guest.IsLinkLocalUnicast() && a == f.rules.Plan.Gateway6 {
		a = f.rules.Plan.GatewayLinkLocal
	}
	return netip.AddrPortFrom(a, peer.Port()), ok && a.Is4() == guest.Is4()
}

// tellUnreachable sends the guest the ICMP error for an errno, if there is one.
func (f *Forwarder) tellUnreachable(errno unix.Errno, router netip.Addr, q *stack.Quote) {
	if why, ok := stack.UnreachableFor(errno); ok {
		f.stack.SendUnreachable(router, why, q)
	}
}
