package forwarder

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/stack"
)

const (
	// batchSize datagrams are moved by one system call at most. The device is
	// read in batches of eight frames, so more would never fill on the way out.
	batchSize = 16
	// datagramMax is the largest datagram, and a page more than it.
	datagramMax = 1 << 16
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

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// control is room for the control messages of one datagram.
type control [64]byte

// datagramBatch is the shard's scratch space for datagrams, and the mappings
// with datagrams to send. Buffers are touched, and so paged in, only as far as
// traffic needs them.
type datagramBatch struct {
	dirty   []*mapping
	msgs    [batchSize]mmsghdr
	addrs   [batchSize]sockaddr
	iovs    [batchSize][2]unix.Iovec
	control [batchSize]control
	buffers []byte // batchSize times datagramMax, made when first needed
}

func (b *datagramBatch) buffer(i int) []byte {
	if b.buffers == nil {
		b.buffers = make([]byte, batchSize*datagramMax)
	}
	return b.buffers[i*datagramMax : (i+1)*datagramMax]
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
	if len(p.Tail) > 0 || !p.Fresh || len(m.pending) == batchSize {
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
		b.addrs[i].set(d.to)
		b.iovs[i] = [2]unix.Iovec{vec(d.payload[0]), vec(d.payload[1])}
		h := &b.msgs[i].hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.addrs[i].raw)), Namelen: b.addrs[i].len, Iov: &b.iovs[i][0], Iovlen: 2}
		if n := d.putControl(b.control[i][:]); n > 0 {
			h.Control = &b.control[i][0]
			h.SetControllen(n)
		}
	}
	retried := false
	for sent := 0; sent < len(m.pending); {
		n, errno := sendmmsg(m.fd, b.msgs[sent:len(m.pending)])
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
	var sa sockaddr
	sa.set(d.to)
	for len(whole) > 0 {
		n := min(int(d.segment), len(whole))
		unix.RawSyscall6(unix.SYS_SENDTO, uintptr(m.fd), uintptr(unsafe.Pointer(&whole[0])), uintptr(n), 0, uintptr(unsafe.Pointer(&sa.raw)), uintptr(sa.len))
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
		n += putCmsg(b[n:], level, typ, 4)
		binary.NativeEndian.PutUint32(b[n-8:], uint32(d.ttl-1))
	}
	if d.segment > 0 {
		n += putCmsg(b[n:], unix.SOL_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(b[n-8:], d.segment)
	}
	return n
}

// putCmsg writes the header of a control message with size bytes of data, at
// most eight, which begin eight bytes before the end of what it returns.
func putCmsg(b []byte, level, typ, size int) int {
	clear(b[:unix.CmsgSpace(size)])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = int32(level), int32(typ)
	h.SetLen(unix.CmsgLen(size))
	return unix.CmsgSpace(size)
}

// receive takes what has arrived for the mapping and sends it to the guest.
func (m *mapping) receive() {
	for range receiveRounds {
		n := m.receiveBatch()
		if n < batchSize || m.fd < 0 {
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
	for i := range b.msgs {
		b.iovs[i][0] = vec(b.buffer(i))
		h := &b.msgs[i].hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.addrs[i].raw)), Namelen: unix.SizeofSockaddrInet6, Iov: &b.iovs[i][0], Iovlen: 1}
		if m.key.proto != stack.ProtoUDP {
			h.Control = &b.control[i][0]
			h.SetControllen(len(b.control[i]))
		}
	}
	n, errno := recvmmsg(m.fd, b.msgs[:])
	if errno != 0 {
		return 0 // EAGAIN, or an error that the error queue tells better
	}
	m.used()
	for i := range n {
		from := b.addrs[i].addrPort()
		data := b.buffer(i)[:b.msgs[i].len]
		if m.key.proto == stack.ProtoUDP {
			if seen, ok := m.f.guestView(m.key.guest.Addr(), from); ok {
				m.f.stack.SendUDP(seen, m.key.guest, data)
			}
			continue
		}
		m.receiveEcho(from.Addr(), data, &b.msgs[i].hdr, &b.control[i])
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

func sendmmsg(fd int, msgs []mmsghdr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), 0, 0, 0)
	return int(n), errno
}

func recvmmsg(fd int, msgs []mmsghdr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

func vec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}
