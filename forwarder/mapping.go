package forwarder

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

const (
	// mappingIdle is how long an unused mapping lives. RFC 4787 REQ-5 asks for
	// two minutes at least and recommends five; libslirp's callers are used to
	// four.
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
	socket sockio.DatagramSocket
	watch  *shard.Watch
	queued bool    // runnable again in the next turn
	dns    dnsTalk // of UDP
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
	socketProto, idle := 0, mappingIdle
	if proto != stack.ProtoUDP {
		socketProto, idle = int(proto), mappingIdleEcho
	}
	fd, errno := f.socket(guest.Addr(), unix.SOCK_DGRAM, socketProto)
	if errno != 0 {
		return nil, errno
	}
	setMappingOptions(fd, proto, guest.Addr().Is6())
	m := &mapping{f: f}
	w, err := f.cfg.Shard.Watch(fd, unix.EPOLLIN|unix.EPOLLET, m)
	if err != nil {
		unix.Close(fd)
		return nil, unix.ENOBUFS
	}
	m.watch = w
	m.socket = sockio.DatagramSocket{FD: fd, Owner: m, Control: proto != stack.ProtoUDP}
	m.record = &flow.Flow{
		Owner: m, Guest: f.cfg.Guest, Kind: flow.Mapping, Proto: proto, Src: guest, FD: fd, Idle: idle, State: flow.Mapped,
	}
	f.cfg.Table.Add(m.record)
	return m, 0
}

// setMappingOptions sets what the socket of a mapping needs. A burst of 200
// full-sized datagrams weighs 460 kB in the receive buffer.
func setMappingOptions(fd int, proto uint8, v6 bool) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sockio.ReceiveBuffer)
	level, recverr := unix.IPPROTO_IP, unix.IP_RECVERR
	recvttl := unix.IP_RECVTTL
	if v6 {
		level, recverr, recvttl = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_RECVHOPLIMIT
		unix.SetsockoptInt(fd, level, unix.IPV6_V6ONLY, 1)
	}
	unix.SetsockoptInt(fd, level, recverr, 1)
	if proto != stack.ProtoUDP {
		unix.SetsockoptInt(fd, level, recvttl, 1)
	}
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
	m.record.Out += uint64(d.Size())
	if !m.dns.other {
		m.dns.sent(f.seed, p)
		m.setIdle()
	}
	f.cfg.Batch.Queue(&m.socket, &d)
	if len(p.Tail) > 0 || !p.Fresh {
		f.cfg.Batch.Flush() // the next frame is read over the tail
	}
}

// ttlPassed is the TTL from which on the host's default is as good. Hosts start at
// 64 or above; what is lower is meant (traceroute, RFC 5082 the other way
// round), and costs a control message for each datagram.
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

// setIdle has the mapping forgotten soon once it has served its DNS queries, and as
// late as any other else.
func (m *mapping) setIdle() {
	idle := mappingIdle
	if m.dns.over() {
		idle = mappingIdleDNS
	}
	if idle != m.record.Idle {
		m.f.cfg.Table.SetIdle(m.record, idle)
	}
}

// Ready implements shard.Handler.
func (m *mapping) Ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		m.socket.ReadErrors(m.passError)
	}
	if events&unix.EPOLLIN != 0 && !m.queued {
		m.receive()
	}
}

// Run implements shard.Task: another turn for a mapping with datagrams left.
func (m *mapping) Run() {
	m.queued = false
	if m.socket.FD >= 0 {
		m.receive()
	}
}

// receive takes what has arrived, and asks for another turn if there may be more.
func (m *mapping) receive() {
	if _, more := m.f.cfg.Batch.Read(&m.socket); more {
		m.queued = true
		m.f.cfg.Shard.Again(m)
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
	m.watch.Forget()
	unix.Close(m.socket.FD)
	m.socket.FD = -1
}
