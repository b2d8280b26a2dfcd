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
// Life of a flow: Start, pumping whenever an end moves, then one of
//
//   - both ends of stream were passed on, each by itself: closed in order;
//   - the host's end failed or was reset: the guest's is reset;
//   - the guest's end failed or was reset: the host's is reset.
//
// Invariants: everything happens on the shard's thread; a flow owns its socket
// and its Conn; the buffers of all flows together stay within one budget.
//
// Timers: TCP keepalive on both ends, sooner towards a guest that has closed
// its side.
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
	return &Relay{shard: s, flows: make(map[*Flow]struct{}), budget: budget{free: bufferBytes}}
}

// Len is the number of flows. Shard's thread only.
func (r *Relay) Len() int { return len(r.flows) }

// Totals sums up. Shard's thread only.
func (r *Relay) Totals() Totals {
	t := r.totals
	for fl := range r.flows {
		t.In += fl.counters.In
		t.Out += fl.counters.Out
	}
	return t
}

// Close closes the host's end of every flow. The shard must have stopped
// serving; the guest's ends are the stack's to close.
func (r *Relay) Close() {
	for fl := range r.flows {
		fl.closeSocket()
	}
	clear(r.flows)
}

// SetAbortiveClose makes the coming close of a socket a RST: SO_LINGER with
// zero seconds, socket(7).
func SetAbortiveClose(fd int) {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
