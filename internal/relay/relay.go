// Package relay moves the bytes of TCP connections between the guest and the
// host.
//
// # Theory of operation
//
// A Flow joins two ends: a stack.Conn, which is the guest's, and a stream
// socket, which is the host's. It does not matter which side asked for the
// connection. Out, the bytes go from the stack's buffers to the socket by one
// writev; in, the socket is read straight into the stack's buffers. There is no
// queue in between: when one end cannot take more, the other is not read, its
// window closes, and the sender waits.
//
// Where the guest's end is a socket too, made in its network namespace, the two
// are joined by splice(2) (splice.go), whichever side has asked for the other: a
// pipe between them for as long as bytes are on the way, and one more round in our
// memory only for urgent data or when there is no descriptor for a pipe.
//
// Life of a flow: Start or Join, pumping whenever an end moves, then one of
//
//   - both ends of stream were passed on, each by itself: closed in order;
//   - the host's end failed or was reset: the guest's is reset;
//   - the guest's end failed or was reset: the host's is reset.
//
// Invariants: everything happens on the shard's thread; a flow owns its socket
// and its Conn; the buffers of all flows together stay within one budget.
//
// Timers: one that sets up TCP keepalive on the ends of flows that have lived
// for some seconds (keepalive.go), and one that closes spare pipes when nothing has
// been joined for a while (pipe.go).
//
// What it does not do: it neither connects nor accepts, and knows no address.
package relay

import (
	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// Relay holds the flows of one guest.
type Relay struct {
	shard   *shard.Shard
	flows   map[*Flow]struct{}
	budget  budget
	totals  Totals // of flows that have ended, and their number so far
	vectors [64]unix.Iovec

	keepalive shard.Timer

	splices     map[*splice]struct{}
	pipes       []*pipe // empty ones, at most sparePipes
	sparesTimer shard.Timer
	scratch     []byte // made when first needed
}

// Totals are sums over all TCP flows since the start.
type Totals struct {
	Connections uint64
	In, Out     uint64 // bytes towards and from the guest
}

// New makes a relay whose flows share bufferBytes of TCP buffers; zero means
// DefaultBufferBytes.
func New(s *shard.Shard, bufferBytes int) *Relay {
	if bufferBytes == 0 {
		bufferBytes = DefaultBufferBytes
	}
	return &Relay{shard: s, flows: make(map[*Flow]struct{}), splices: make(map[*splice]struct{}), budget: budget{free: bufferBytes}}
}

// Len is the number of flows. Shard's thread only.
func (r *Relay) Len() int { return len(r.flows) + len(r.splices) }

// Totals sums up. Shard's thread only.
func (r *Relay) Totals() Totals {
	t := r.totals
	for fl := range r.flows {
		t.In += fl.counters.In
		t.Out += fl.counters.Out
	}
	for s := range r.splices {
		t.In += s.counters.In
		t.Out += s.counters.Out
	}
	return t
}

func (r *Relay) scratchSpace() []byte {
	if r.scratch == nil {
		r.scratch = make([]byte, scratchSize)
	}
	return r.scratch
}

// Close closes the sockets of every flow and the pipes. The shard must have
// stopped serving; connections of the stack are the stack's to close.
func (r *Relay) Close() {
	for fl := range r.flows {
		fl.closeSocket()
	}
	clear(r.flows)
	for s := range r.splices {
		s.closeSockets()
	}
	clear(r.splices)
	r.closeSparePipes()
}

// Prepare sets the options that the relay needs on a TCP socket of the host: one
// that is going to connect, or a listener, whose connections have them too.
// Failures leave a slower connection, and do not happen.
func Prepare(fd int) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // the guest's sender decides
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) // urgent data is data, in order
}

// SetAbortiveClose makes the coming close of a socket a RST: SO_LINGER with
// zero seconds, socket(7).
func SetAbortiveClose(fd int) {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
