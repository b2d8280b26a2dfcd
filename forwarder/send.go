package forwarder

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

const (
	// ttlPassed is the TTL from which on the host's default is as good. Hosts
	// start at 64 or above; what is lower is meant (traceroute, RFC 5082 the
	// other way round), and costs a control message per datagram.
	ttlPassed = 64
	// runMax datagrams of one mapping wait for the end of a batch at most.
	runMax = sockio.RunMax
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

	// Of the messages being sent:
	vecs [2 * runMax]unix.Iovec
	ends [sockio.BatchSize]int // how many datagrams there are up to each one's end
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

// send sends what is pending. Datagrams that the host has no room for are lost,
// as on any network.
func (m *mapping) send() {
	retried := false
	for rest := m.pending; len(rest) > 0; {
		n, errno := m.sendSome(rest)
		switch errno {
		case 0:
			rest, retried = rest[n:], false
		case unix.EINTR:
		case unix.EAGAIN, unix.ENOBUFS:
			return
		default:
			if !retried {
				// The error may be an earlier datagram's, left on the socket by
				// ICMP: reported by the error queue, and out of the way now.
				retried = true
				continue
			}
			retried = false
			if n > 1 && sockio.CannotSegment(errno) {
				m.single = true
				continue
			}
			for i := range rest[:n] {
				m.sendFailed(&rest[i], errno)
			}
			rest = rest[n:]
		}
	}
}

// sendSome sends the first of the datagrams, as many as one system call takes,
// and returns how many went; or, with an error, how many it is about.
//
// Neighbours of one size for one peer go as one message, which the kernel cuts
// again at the end of its way: 2.4 us a datagram instead of 4.2
// (make bench ROWS=udp-1400).
func (m *mapping) sendSome(pending []outDatagram) (int, unix.Errno) {
	b := &m.f.batch
	n, vecs, messages := 0, b.vecs[:0], 0
	for ; n < len(pending) && messages < sockio.BatchSize; messages++ {
		run := pending[n : n+m.run(pending[n:])]
		first := &run[0]
		start := len(vecs)
		for i := range run {
			for _, p := range run[i].payload {
				if len(p) > 0 {
					vecs = append(vecs, sockio.Vec(p))
				}
			}
		}
		h := &b.Msgs[messages].Hdr
		*h = unix.Msghdr{Iovlen: uint64(len(vecs) - start)}
		if h.Iovlen > 0 {
			h.Iov = &vecs[start]
		}
		b.Addrs[messages].Set(first.to)
		b.Addrs[messages].Name(h)
		segment := first.segment
		if len(run) > 1 {
			segment = uint16(len(first.payload[0]))
		}
		if size := first.putControl(b.Control[messages][:], segment); size > 0 {
			h.Control = &b.Control[messages][0]
			h.SetControllen(size)
		}
		n += len(run)
		b.ends[messages] = n
	}
	sent, errno := sockio.SendMessages(m.fd, b.Msgs[:messages])
	if errno != 0 {
		return b.ends[0], errno
	}
	n = b.ends[sent-1]
	for i := range pending[:n] {
		m.counters.Out += uint64(pending[i].size())
	}
	return n, 0
}

// run is how many of the datagrams, from the first on, may go as one message:
// all of one size, but for the last, which may be shorter.
func (m *mapping) run(pending []outDatagram) int {
	first := &pending[0]
	if m.single || !first.plain() {
		return 1
	}
	segment := len(first.payload[0])
	for n, total := 1, segment; ; n++ {
		if n == len(pending) {
			return n
		}
		d := &pending[n]
		size := len(d.payload[0])
		total += size
		if d.to != first.to || !d.plain() || size > segment || total > sockio.RunBytes {
			return n
		}
		if size < segment {
			return n + 1
		}
	}
}

// plain reports whether the datagram is nothing but payload in one piece.
func (d *outDatagram) plain() bool {
	return d.segment == 0 && d.ttl >= ttlPassed && len(d.payload[0]) > 0 && len(d.payload[1]) == 0
}

func (d *outDatagram) size() int { return len(d.payload[0]) + len(d.payload[1]) }

// sendFailed handles a datagram that the host's kernel refuses to send. One
// that it cannot cut into segments is cut here.
func (m *mapping) sendFailed(d *outDatagram, errno unix.Errno) {
	if d.segment > 0 && sockio.CannotSegment(errno) {
		m.sendSegments(d)
		return
	}
	if q, ok := m.quote(d.to, d.payload[0], d.size()); ok {
		m.f.tellUnreachable(errno, netip.Addr{}, &q)
	}
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
// the hop that we are, and the size of segments.
func (d *outDatagram) putControl(b []byte, segment uint16) int {
	n := 0
	if d.ttl < ttlPassed {
		level, typ := unix.IPPROTO_IP, unix.IP_TTL
		if d.to.Addr().Is6() {
			level, typ = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
		}
		n += sockio.PutControl(b[n:], level, typ, 4)
		binary.NativeEndian.PutUint32(b[n-8:], uint32(d.ttl-1))
	}
	if segment > 0 {
		n += sockio.PutControl(b[n:], unix.SOL_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(b[n-8:], segment)
	}
	return n
}
