package stack

import (
	"math/bits"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// gVisor bounds a send queue by the bytes in it. A server that sends single bytes to
// a guest that does not read would make each byte cost a segment, a packet buffer
// and a chunk of memory. So what a write costs beyond its bytes is counted here, and
// the send buffer is made smaller by it (Conn.limitSend): what does not fit waits in
// the host's socket, and comes as one write later.

// writeOverhead is what gVisor allocates for a write in addition to the chunk that
// holds its bytes: a segment and its packet buffer, a view, and the chunk's
// description.
const writeOverhead = tcp.SegOverheadSize + 128

// mostOverhead is what the writes of one connection may cost beyond their bytes, if
// its buffers are larger than that: some 200 small writes, which a guest that reads
// has acknowledged before a server on the same machine has made them.
const mostOverhead = 256 << 10

// smallestSend is the smallest send buffer. gVisor signals room when less than half of
// the buffer is used, which never holds for a buffer of one byte.
const smallestSend = 2

// overhead estimates what the writes that the guest has not acknowledged cost beyond
// their bytes. It does not remember each write but two generations of them: when the
// older one has been acknowledged as a whole, the younger takes its place.
type overhead struct {
	written        uint64 // bytes, since the connection began
	mark           uint64 // written, when the younger generation began
	older, younger int
}

// wrote counts a write of n bytes.
func (o *overhead) wrote(n int) {
	o.written += uint64(n)
	o.younger += writeOverhead + chunkSize(n) - n
}

// settle subtracts what has been acknowledged; unacknowledged is in bytes.
func (o *overhead) settle(unacknowledged int) {
	if unacknowledged == 0 {
		o.older, o.younger = 0, 0
	} else if o.written-uint64(unacknowledged) >= o.mark {
		o.older, o.younger, o.mark = o.younger, 0, o.written
	}
}

func (o *overhead) bytes() int { return o.older + o.younger }

// chunkSize is the size of the chunk that gVisor takes for n bytes: a power of two
// from 64 bytes on.
func chunkSize(n int) int { return 1 << max(6, bits.Len(uint(n-1))) }

// limitSend makes c's send buffer smaller when its writes have cost a good part of what
// they may, and restores it when they have been acknowledged.
func (c *Conn) limitSend() {
	most := min(c.buffers, mostOverhead)
	if c.overhead.bytes() < most/4 {
		return
	}
	c.overhead.settle(c.s.unacknowledged(c.ep))
	size := min(c.buffers, maxSend)
	room := size - c.overhead.bytes()*(size/most)
	c.ep.SocketOptions().SetSendBufferSize(int64(max(smallestSend, room)), true)
}
