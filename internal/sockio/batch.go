package sockio

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	// RunMax datagrams may be sent as one message, the least that UDP_SEGMENT
	// takes (UDP_MAX_SEGMENTS of the kernels before 6.9), and RunBytes, which fit
	// one of either family.
	RunMax   = 64
	RunBytes = 1<<16 - 1 - 48

	// BatchSize messages are moved by one system call at most. More gain little:
	// the call itself costs a tenth of a microsecond per message.
	BatchSize = 16
	// TurnBatches are read from one socket before others get their turn, fewer
	// if they bring TurnBytes: where the guest's device takes joined datagrams
	// only one by one, 1 MB of them takes some 2 ms.
	TurnBatches = 4
	TurnBytes   = 512 << 10
	// datagramMax is the largest datagram, rounded up to whole pages.
	datagramMax = 1 << 16
	// ReceiveBuffer is asked for as receive buffer of sockets that many datagrams
	// may arrive at; the kernel grants up to net.core.rmem_max.
	ReceiveBuffer = 1 << 20
	// controlMax is room for all control messages received or sent: IPV6_PKTINFO
	// takes 40 bytes, UDP_GRO, UDP_SEGMENT and TTLs 24 each.
	controlMax = 96
)

// Batch is one shard's scratch space for datagrams, and its sockets that have
// some to send. Its buffers are touched, and so become memory, only as far as
// traffic needs them.
type Batch struct {
	Msgs    [BatchSize]Message
	Addrs   [BatchSize]Addr
	Iovs    [BatchSize]unix.Iovec
	Control [BatchSize][controlMax]byte
	buffers []byte // BatchSize times datagramMax, made when first needed
	parts   [BatchSize][]byte

	dirty []*DatagramSocket // with datagrams to send
	one   [1]Datagram       // of Send
	vecs  [2 * RunMax]unix.Iovec
	ends  [BatchSize]int // of the messages being sent: how many datagrams up to each one's end
}

// Receive receives what waits, with control messages if asked for.
func (b *Batch) Receive(fd int, control bool) (int, unix.Errno) {
	if b.buffers == nil {
		b.buffers = make([]byte, BatchSize*datagramMax)
	}
	for i := range b.Msgs {
		b.Iovs[i] = Vec(b.buffers[i*datagramMax : (i+1)*datagramMax])
		h := &b.Msgs[i].Hdr
		*h = unix.Msghdr{Iov: &b.Iovs[i], Iovlen: 1}
		b.Addrs[i].Room(h)
		if control {
			h.Control = &b.Control[i][0]
			h.SetControllen(controlMax)
		}
	}
	n, errno := ReceiveMessages(fd, b.Msgs[:])
	for i := range n {
		b.Addrs[i].took(b.Msgs[i].Hdr.Namelen) // so that it can be answered
	}
	return n, errno
}

// Join has the kernel hand over datagrams that came in a row, from one sender and
// of one size, as one message (UDP_GRO, Linux 5.0), which Run can tell from one
// datagram if Receive asked for control messages. An older kernel does not.
func Join(fd int) { unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) }

// Run finds the datagrams, from the i-th of n received messages on, that may be
// passed on as one message: from one sender and all of segment bytes, except the
// last, which may be shorter. Each part is a whole number of segments, except the
// last part; parts are valid until the next call. next is the first message after
// them. A message whose boundaries were lost is skipped.
func (b *Batch) Run(i, n int) (segment int, parts [][]byte, next int) {
	parts = b.parts[:0]
	total := 0
	for next = i; next < n; next++ {
		size := int(b.Msgs[next].Len)
		each, ok := b.segment(next)
		if len(parts) > 0 && (!ok || each > segment || each < size && each < segment || size == 0 ||
			total%segment != 0 || total+size > RunBytes || b.Addrs[next].AddrPort() != b.Addrs[i].AddrPort()) {
			break
		}
		if !ok {
			i++
			continue
		}
		if len(parts) == 0 {
			segment = each
		}
		parts = append(parts, b.Datagram(next))
		total += size
		if segment == 0 {
			next++
			break
		}
	}
	return segment, parts, next
}

// segment is the size of the datagrams that the i-th message received consists
// of, and whether it is known.
func (b *Batch) segment(i int) (int, bool) {
	m := &b.Msgs[i]
	if d := FindControl(b.ControlOf(i), unix.SOL_UDP, unix.UDP_GRO); len(d) >= 4 {
		if each := int(binary.NativeEndian.Uint32(d)); each > 0 && each < int(m.Len) {
			return each, true
		}
	} else if m.Hdr.Control != nil && m.Hdr.Flags&unix.MSG_CTRUNC != 0 {
		return 0, false
	}
	return int(m.Len), true
}

// Datagram is the payload of the i-th datagram received.
func (b *Batch) Datagram(i int) []byte {
	return b.buffers[i*datagramMax:][:b.Msgs[i].Len]
}

// ControlOf is the control messages of the i-th datagram received.
func (b *Batch) ControlOf(i int) []byte {
	return b.Control[i][:min(int(b.Msgs[i].Hdr.Controllen), controlMax)]
}
