// Package relay moves the bytes of TCP connections between the guest and the
// host.
//
// # Theory of operation
//
// A connection has two ends: a stack.Conn, which is the guest's, and a stream
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
// Each connection is a record of the flow.Table, whose owner it becomes. Life of a
// connection: Start or Join, pumping whenever an end moves, then one of
//
//   - both ends of stream were passed on, each by itself: closed in order;
//   - the host's end failed or was reset: the guest's is reset;
//   - the guest's end failed or was reset: the host's is reset.
//
// Invariants: everything happens on the shard's thread; a connection owns both of
// its ends.
//
// Timers: one that sets up TCP keepalive on connections that have lived
// for some seconds (keepalive.go), and one that closes spare pipes when nothing has
// been joined for a while (pipe.go).
//
// What it does not do: it neither connects nor accepts, and knows no address.
package relay

import (
	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
)

// Config of a Relay. Shard and Table are required.
type Config struct {
	Shard *shard.Shard
	// Table that holds the records of the connections.
	Table *flow.Table
}

// Relay moves bytes for the flows of one table.
type Relay struct {
	shard   *shard.Shard
	table   *flow.Table
	vectors [64]unix.Iovec

	keepalive shard.Timer

	spliced     int     // connections that are joined by splice
	pipes       []*pipe // empty ones, at most sparePipes
	sparesTimer shard.Timer
	scratch     []byte // made when first needed
}

// New makes a relay.
func New(cfg Config) *Relay {
	return &Relay{shard: cfg.Shard, table: cfg.Table}
}

func (r *Relay) scratchSpace() []byte {
	if r.scratch == nil {
		r.scratch = make([]byte, scratchSize)
	}
	return r.scratch
}

// Close closes the pipes. The table must have been closed.
func (r *Relay) Close() { r.closeSparePipes() }
