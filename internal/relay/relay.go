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
// are joined by splice(2) (splice.go), whichever side has asked for the other, with a
// pipe between them while bytes are on the way. Bytes pass through our memory only if
// they are urgent or no descriptor is left for a pipe.
//
// A connection of the first kind that moves much becomes one of the second
// (handover.go, and docs/design.md): the guest's kernel takes the stack's part, by a socket
// in its namespace that continues the same connection (package repair). This happens when nothing
// is in flight in either direction, which is brought about and waited for; until the guest's
// kernel has taken over, everything can be undone. Both ends of a connection between members of a
// network are such sockets (JoinCarried); package bypass makes them.
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
// been joined for a while (pipe.go); one for each hand-over, and one for each connection that
// was handed over and has ended, until the guest knows (linger.go).
//
// What it does not do: it neither connects nor accepts, and knows no address.
package relay

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/repair"
	"epiphyte/internal/shard"
)

// Config of a Relay. Shard and Table are required.
type Config struct {
	Shard *shard.Shard
	// Table that holds the records of the connections.
	Table *flow.Table
	// Kernel is that of a guest's address, which carries connections that move much; nil: all
	// of the guest's stay on the device.
	Kernel func(guest netip.Addr) *repair.Kernel
	// Stay reports whether no connection leaves the device for now; nil: they may. It is
	// called on the shard's thread.
	Stay func() bool
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

	kernel      func(netip.Addr) *repair.Kernel // may be nil
	stay        func() bool                     // may be nil
	mostCarried int
	carried     int // connections handed over, being handed over, or lingering
	lingering   map[*lingering]struct{}
}

// New makes a relay.
func New(cfg Config) *Relay {
	return &Relay{
		shard: cfg.Shard, table: cfg.Table,
		kernel: cfg.Kernel, stay: cfg.Stay,
		mostCarried: min(mostCarried, cfg.Table.Descriptors()/carriedShare), lingering: make(map[*lingering]struct{}),
	}
}

func (r *Relay) scratchSpace() []byte {
	if r.scratch == nil {
		r.scratch = make([]byte, scratchSize)
	}
	return r.scratch
}

// Close closes the pipes and what lingers. The table must have been closed.
func (r *Relay) Close() {
	for l := range r.lingering {
		l.close()
	}
	r.closeSparePipes()
}
