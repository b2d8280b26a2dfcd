package forwarder

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

const (
	// mappingIdle is how long an unused mapping lives. RFC 4787 REQ-5 asks for
	// two minutes at least and recommends five; users of libslirp are used to four.
	mappingIdle = 240 * time.Second
	// mappingIdleDNS is for a mapping whose DNS queries are answered, see dnsTalk.
	mappingIdleDNS = 10 * time.Second
	// mappingIdleEcho: ping's own patience is 10 s, its interval less.
	mappingIdleEcho = 30 * time.Second
)

// mapping is one unconnected host socket that stands for a guest address and
// port, or echo identifier (RFC 4787: endpoint-independent).
type mapping struct {
	f      *Forwarder
	record *flow.Flow
	socket datagramSocket // closed if raw carries it
	dns    dnsTalk        // of UDP
	raw    *rawEcho       // of echo, where there are no ping sockets; nil otherwise
	rawID  uint16         // the identifier outside, if raw is not nil

	// The last address that the guest asked and that stood for another, and that other
	// one, from which the answer comes.
	asked, led netip.Addr
}

// sendsTo takes note of where the guest sends to, and where that leads.
func (m *mapping) sendsTo(asked, led netip.Addr) {
	switch {
	case asked != led:
		m.asked, m.led = asked, led
	case led == m.led:
		m.asked, m.led = netip.Addr{}, netip.Addr{}
	}
}

// mapping returns the mapping of a guest's end, opening its socket if there is
// none.
func (f *Forwarder) mapping(proto uint8, guest netip.AddrPort) (*mapping, unix.Errno) {
	if r := f.cfg.Table.Find(flow.Mapping, proto, guest, netip.AddrPort{}); r != nil {
		f.cfg.Table.Used(r)
		return r.Owner.(*mapping), 0
	}
	return f.openMapping(proto, guest)
}

func (f *Forwarder) openMapping(proto uint8, guest netip.AddrPort) (*mapping, unix.Errno) {
	f.cfg.Table.Admit(flow.Mapping)
	m := &mapping{f: f}
	m.record = &flow.Flow{
		Owner: m, Guest: f.cfg.Guests.Of(guest.Addr()), Kind: flow.Mapping, Proto: proto, Src: guest, Idle: mappingIdle, State: flow.Mapped,
	}
	socketProto := 0
	if proto != stack.ProtoUDP {
		m.record.Idle, socketProto = mappingIdleEcho, int(proto)
	}
	errno := m.socket.open(f, m, guest.Addr(), unix.SOCK_DGRAM, socketProto)
	if refusesPing(errno) && proto != stack.ProtoUDP {
		errno = f.openRawMapping(m)
	}
	if errno != 0 {
		return nil, errno
	}
	m.record.FD = m.socket.FD
	f.cfg.Table.Add(m.record)
	return m, 0
}

// sendDatagram sends a datagram of the guest, now or with the rest of its batch.
func (f *Forwarder) sendDatagram(p *stack.Packet, src, to netip.AddrPort) {
	m, errno := f.mapping(stack.ProtoUDP, src)
	if errno != 0 {
		q := p.Quote()
		f.tellError(errno, &q)
		return
	}
	d := sockio.Datagram{Payload: [2][]byte{p.Head[8:], p.Tail}, TTL: ttlBeyond(p), Segment: p.SegmentSize}
	d.To.Set(to)
	if d.Source, errno = f.cfg.Source.Way(m.socket.FD, to.Addr()); errno != 0 {
		m.SendFailed(&d, errno)
		return
	}
	m.record.Out += uint64(d.Size())
	m.sendsTo(p.Dst, to.Addr())
	if !m.dns.other {
		m.dns.sent(f.seed, p)
		m.setIdle()
	}
	f.cfg.Batch.Queue(&m.socket.DatagramSocket, &d)
	if len(p.Tail) > 0 || !p.Fresh {
		f.cfg.Batch.Flush() // the next frame is read over the tail
	}
}

// ttlPassed is the TTL from which on the host's default serves as well. Hosts start at
// 64 or above; a lower one is intended (traceroute, RFC 5082 the other way round), and
// costs a control message for each datagram.
const ttlPassed = 64

// ttlBeyond is the TTL that a packet is to leave with, less the hop that we are,
// or 0 for the host's own. Packets with a TTL of 0 or 1 reach us only if the gateway
// is their destination; they leave with the host's own, too.
func ttlBeyond(p *stack.Packet) uint8 {
	if p.TTL >= ttlPassed || p.TTL == 0 {
		return 0
	}
	return p.TTL - 1
}

// setIdle lets the mapping expire soon once its DNS queries are answered, else after
// the ordinary time.
func (m *mapping) setIdle() {
	idle := mappingIdle
	if m.dns.over() {
		idle = mappingIdleDNS
	}
	if idle != m.record.Idle {
		m.f.cfg.Table.SetIdle(m.record, idle)
	}
}

// Received implements sockio.DatagramOwner.
func (m *mapping) Received(from *sockio.Addr, control []byte, segment int, parts [][]byte) {
	m.f.cfg.Table.Used(m.record)
	for _, p := range parts {
		m.record.In += uint64(len(p))
	}
	if m.record.Proto != stack.ProtoUDP {
		for _, p := range parts {
			m.receiveEcho(from.AddrPort(), p, control)
		}
		return
	}
	peer := from.AddrPort()
	if !m.dns.other && peer.Port() == portDNS {
		for _, p := range parts {
			for ; len(p) > 0; p = p[min(segment, len(p)):] {
				m.dns.received(m.f.seed, p[:min(segment, len(p))])
			}
		}
		m.setIdle()
	}
	if seen, ok := m.seen(peer); ok {
		m.f.stack.SendUDPs(seen, m.record.Src, segment, parts...)
	}
}

// End implements flow.Owner.
func (m *mapping) End(flow.Reason) {
	m.socket.close()
	if m.raw != nil {
		m.raw.remove(m)
	}
}
