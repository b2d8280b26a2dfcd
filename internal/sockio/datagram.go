package sockio

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Datagram is one that waits to be sent, or one super-datagram.
type Datagram struct {
	To Addr
	// Payload lies in the caller's memory, which is stable until Batch.Flush.
	Payload [2][]byte
	// TTL is that of the packet; 0: the host's default.
	TTL uint8
	// Segment is not zero for a super-datagram: the payload is to be cut into
	// datagrams of this many bytes, the last of which may be shorter.
	Segment uint16
	// Source is a control message that names the host's address to send from
	// (IP_PKTINFO, IPV6_PKTINFO); nil: the socket's.
	Source []byte
}

// Size is the length of the payload in bytes.
func (d *Datagram) Size() int { return len(d.Payload[0]) + len(d.Payload[1]) }

// DatagramOwner is told what a DatagramSocket receives and what it cannot send.
type DatagramOwner interface {
	// Received takes datagrams of one sender, of segment bytes each, in parts as
	// [Batch.Run] makes them, with the control messages of the last. All of it is valid
	// during the call only, and lies in the Batch, none of whose methods may be called
	// meanwhile.
	Received(from *Addr, control []byte, segment int, parts [][]byte)
	// SendFailed takes a datagram that the kernel refuses to send.
	SendFailed(d *Datagram, errno unix.Errno)
}

// DatagramSocket is an unconnected, non-blocking UDP or ping socket. It belongs to
// one shard, whose Batch its methods borrow.
type DatagramSocket struct {
	FD    int // -1: closed
	Owner DatagramOwner
	// Control has Received always called with control messages; else they come only
	// once the kernel joins datagrams.
	Control bool

	pending []Datagram // to be sent by Batch.Flush
	joins   bool       // the kernel may join what arrives
	single  bool       // the kernel does not cut super-datagrams that are sent
}

// pendingMax datagrams of one socket wait for a Flush.
const pendingMax = RunMax

// Queue has a datagram sent by the next Flush, together with its neighbours.
func (b *Batch) Queue(s *DatagramSocket, d *Datagram) {
	if len(s.pending) == 0 {
		b.dirty = append(b.dirty, s)
	}
	if s.pending = append(s.pending, *d); len(s.pending) == pendingMax {
		b.Flush()
	}
}

// Flush sends what was queued. Datagrams that the host has no room for are lost,
// as on any network.
func (b *Batch) Flush() {
	for i, s := range b.dirty {
		b.dirty[i] = nil
		if s.FD >= 0 {
			b.send(s, s.pending)
		}
		clear(s.pending)
		s.pending = s.pending[:0]
	}
	b.dirty = b.dirty[:0]
}

// Send sends a datagram now.
func (b *Batch) Send(s *DatagramSocket, d *Datagram) {
	b.one[0] = *d
	b.send(s, b.one[:])
	b.one[0] = Datagram{}
}

func (b *Batch) send(s *DatagramSocket, rest []Datagram) {
	retried := false
	for len(rest) > 0 {
		n, errno := b.sendSome(s, rest)
		switch {
		case errno == 0:
			rest, retried = rest[n:], false
		case errno == unix.EINTR:
		case errno == unix.EAGAIN || errno == unix.ENOBUFS:
			return
		case !retried:
			// The error may be an earlier datagram's, left on the socket by ICMP.
			// The call has cleared it; the error queue still has it.
			retried = true
		case n > 1 && cannotSegment(errno):
			s.single, retried = true, false
		default:
			for i := range rest[:n] {
				b.sendFailed(s, &rest[i], errno)
			}
			rest, retried = rest[n:], false
		}
	}
}

// sendFailed cuts a super-datagram that the kernel cannot cut, and tells the owner of
// any other failure.
func (b *Batch) sendFailed(s *DatagramSocket, d *Datagram, errno unix.Errno) {
	if d.Segment == 0 || !cannotSegment(errno) {
		s.Owner.SendFailed(d, errno)
		return
	}
	whole := append(append([]byte(nil), d.Payload[0]...), d.Payload[1]...)
	for len(whole) > 0 {
		part := *d
		part.Segment = 0
		n := min(int(d.Segment), len(whole))
		part.Payload = [2][]byte{whole[:n]}
		b.sendSome(s, []Datagram{part})
		whole = whole[n:]
	}
}

// cannotSegment reports whether an error of a message with UDP_SEGMENT may mean
// that the kernel cannot cut messages on this route.
func cannotSegment(errno unix.Errno) bool {
	return errno == unix.EINVAL || errno == unix.EIO || errno == unix.EMSGSIZE || errno == unix.EOPNOTSUPP
}

// sendSome sends the first of the datagrams, as many as one system call takes,
// and returns how many were sent; or, with an error, how many the error concerns.
//
// Neighbours of one size for one peer go as one message, which the kernel cuts
// just before the device: 2.4 us a datagram instead of 4.2
// (make bench ROWS=udp-1400).
func (b *Batch) sendSome(s *DatagramSocket, pending []Datagram) (int, unix.Errno) {
	n, vecs, messages := 0, b.vecs[:0], 0
	for ; n < len(pending) && messages < BatchSize; messages++ {
		run := pending[n : n+s.run(pending[n:])]
		first := &run[0]
		start := len(vecs)
		for i := range run {
			for _, p := range run[i].Payload {
				if len(p) > 0 {
					vecs = append(vecs, Vec(p))
				}
			}
		}
		h := &b.Msgs[messages].Hdr
		*h = unix.Msghdr{Iovlen: uint64(len(vecs) - start)}
		if h.Iovlen > 0 {
			h.Iov = &vecs[start]
		}
		first.To.Name(h)
		segment := first.Segment
		if len(run) > 1 {
			segment = uint16(len(first.Payload[0]))
		}
		if control := first.appendControl(b.Control[messages][:0], segment); len(control) > 0 {
			h.Control = &control[0]
			h.SetControllen(len(control))
		}
		n += len(run)
		b.ends[messages] = n
	}
	sent, errno := SendMessages(s.FD, b.Msgs[:messages])
	if errno != 0 {
		return b.ends[0], errno
	}
	return b.ends[sent-1], 0
}

// run is how many of the datagrams, from the first on, may go as one message:
// all of one size, but for the last, which may be shorter.
func (s *DatagramSocket) run(pending []Datagram) int {
	first := &pending[0]
	if s.single || !first.plain() {
		return 1
	}
	segment := len(first.Payload[0])
	total := segment
	for n := 1; n < len(pending); n++ {
		d := &pending[n]
		size := len(d.Payload[0])
		total += size
		if !d.plain() || size > segment || total > RunBytes || d.To != first.To || string(d.Source) != string(first.Source) {
			return n
		}
		if size < segment {
			return n + 1
		}
	}
	return len(pending)
}

// plain reports whether the datagram is nothing but payload in one piece.
func (d *Datagram) plain() bool {
	return d.Segment == 0 && d.TTL == 0 && len(d.Payload[0]) > 0 && len(d.Payload[1]) == 0
}

// appendControl appends the datagram's control messages.
func (d *Datagram) appendControl(b []byte, segment uint16) []byte {
	b = append(b, d.Source...)
	if d.TTL > 0 {
		level, typ := unix.IPPROTO_IP, unix.IP_TTL
		if d.To.Is6() {
			level, typ = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
		}
		var ttl [4]byte
		binary.NativeEndian.PutUint32(ttl[:], uint32(d.TTL))
		b = AppendControl(b, level, typ, ttl[:])
	}
	if segment > 0 {
		var size [2]byte
		binary.NativeEndian.PutUint16(size[:], segment)
		b = AppendControl(b, unix.SOL_UDP, unix.UDP_SEGMENT, size[:])
	}
	return b
}

// Read hands what has arrived to the owner, up to what one socket may take before
// others get their turn. It returns how many bytes that were, and whether more may
// be waiting.
func (b *Batch) Read(s *DatagramSocket) (bytes int, more bool) {
	for range TurnBatches {
		n, errno := b.Receive(s.FD, s.Control || s.joins)
		if errno != 0 {
			return bytes, false // EAGAIN, or an error that the error queue describes better
		}
		for i := 0; i < n && s.FD >= 0; {
			segment, parts, next := b.Run(i, n)
			if len(parts) > 0 {
				s.Owner.Received(&b.Addrs[i], b.ControlOf(next-1), segment, parts)
			}
			for ; i < next; i++ {
				bytes += int(b.Msgs[i].Len)
			}
		}
		if s.FD < 0 {
			return bytes, false // Received has closed it
		}
		if n > 1 && !s.joins {
			// Most sockets see one query and its answer, and do not need this call.
			s.joins = true
			Join(s.FD)
		}
		if n < BatchSize {
			return bytes, false
		}
		if bytes >= TurnBytes {
			break
		}
	}
	return bytes, true
}
