package forwarder

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

const (
	// receiveRounds batches are taken from one socket before others get their
	// turn.
	receiveRounds = 4
	// ttlPassed is the TTL from which on the host's default is as good. Hosts
	// start at 64 or above; what is lower is meant (traceroute, RFC 5082 the
	// other way round), and costs a control message per datagram.
	ttlPassed = 64
)

// outDatagram waits for the end of the batch. Its payload lies in the
// receiver's buffers, which are stable until then.
type outDatagram struct {
	to      netip.AddrPort
	payload [2][]byte
	ttl     uint8
	segment uint16
}

// datagramBatch is the shard's scratch space for datagrams, and the mappings
// with datagrams to send.
type datagramBatch struct {
	sockio.Batch
	dirty []*mapping
}

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
	if len(p.Tail) > 0 || !p.Fresh || len(m.pending) == sockio.BatchSize {
		f.flushDatagrams() // the tail is read over by the next frame
	}
}

func (f *Forwarder) flushDatagrams() {
	for i, m := range f.batch.dirty {
		f.batch.dirty[i] = nil
		if m.fd >= 0 {
			m.send()
		}
		clear(m.pending)
		m.pending = m.pending[:0]
	}
	f.batch.dirty = f.batch.dirty[:0]
}

// send sends what is pending. Datagrams that the host has no room for are
// lost, as on any network.
func (m *mapping) send() {
	b := &m.f.batch
	for i := range m.pending {
		d := &m.pending[i]
		m.counters.Out += uint64(len(d.payload[0]) + len(d.payload[1]))
		b.Addrs[i].Set(d.to)
		b.Iovs[i] = [2]unix.Iovec{sockio.Vec(d.payload[0]), sockio.Vec(d.payload[1])}
		h := &b.Msgs[i].Hdr
		*h = unix.Msghdr{Iov: &b.Iovs[i][0], Iovlen: 2}
		b.Addrs[i].Name(h)
		if n := d.putControl(b.Control[i][:]); n > 0 {
			h.Control = &b.Control[i][0]
			h.SetControllen(n)
		}
	}
	retried := false
	for sent := 0; sent < len(m.pending); {
		n, errno := sockio.SendMessages(m.fd, b.Msgs[sent:len(m.pending)])
		if errno == 0 {
			sent += n
			retried = false
			continue
		}
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.EAGAIN || errno == unix.ENOBUFS {
			return
		}
		// The error may be an earlier datagram's, left on the socket by ICMP:
		// reported by the error queue, and out of the way now.
		if !retried {
			retried = true
			continue
		}
		m.sendFailed(&m.pending[sent], errno)
		sent++
		retried = false
	}
}

// sendFailed handles a datagram that the host's kernel refuses to send. One
// that it cannot cut into segments is cut here.
func (m *mapping) sendFailed(d *outDatagram, errno unix.Errno) {
	if d.segment > 0 && (errno == unix.EINVAL || errno == unix.EIO || errno == unix.EMSGSIZE || errno == unix.EOPNOTSUPP) {
		m.sendSegments(d)
		return
	}
	if q, ok := m.quote(d.to, d.payload[0], len(d.payload[0])+len(d.payload[1])); ok {
		m.f.tellUnreachable(errno, netip.Addr{}, &q)
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

func (m *mapping) sendSegments(d *outDatagram) {
	whole := append(append([]byte(nil), d.payload[0]...), d.payload[1]...)
	var sa sockio.Addr
	sa.Set(d.to)
	for len(whole) > 0 {
		n := min(int(d.segment), len(whole))
		sockio.SendTo(m.fd, whole[:n], &sa)
		whole = whole[n:]
	}
}

// putControl writes the datagram's control messages: a TTL that is meant, less
// the hop that we are, and the size of its segments.
func (d *outDatagram) putControl(b []byte) int {
	n := 0
	if d.ttl < ttlPassed {
		level, typ := unix.IPPROTO_IP, unix.IP_TTL
		if d.to.Addr().Is6() {
			level, typ = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
		}
		n += sockio.PutControl(b[n:], level, typ, 4)
		binary.NativeEndian.PutUint32(b[n-8:], uint32(d.ttl-1))
	}
	if d.segment > 0 {
		n += sockio.PutControl(b[n:], unix.SOL_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(b[n-8:], d.segment)
	}
	return n
}

// receive takes what has arrived for the mapping and sends it to the guest.
func (m *mapping) receive() {
	for range receiveRounds {
		n := m.receiveBatch()
		if n < sockio.BatchSize || m.fd < 0 {
			return // an edge tells of more
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
	n, errno := b.Receive(m.fd, m.key.proto != stack.ProtoUDP)
	if errno != 0 {
		return 0 // EAGAIN, or an error that the error queue tells better
	}
	m.used()
	for i := range n {
		from := b.Addrs[i].AddrPort()
		data := b.Datagram(i)
		m.counters.In += uint64(len(data))
		if m.key.proto == stack.ProtoUDP {
			if seen, ok := m.f.guestView(m.key.guest.Addr(), from); ok {
				m.f.stack.SendUDP(seen, m.key.guest, data)
			}
			continue
		}
		m.receiveEcho(from.Addr(), data, b.ControlOf(i))
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
