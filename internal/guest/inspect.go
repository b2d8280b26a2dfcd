package guest

import (
	"cmp"
	"slices"

	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
)

// Flows lists the flows of the moment: connections, those in the making
// included, mappings and sessions. It waits for the shard, which must be
// serving; after Close it returns nil.
func (g *Guest) Flows() []relay.Info {
	var list []relay.Info
	g.ask(func() {
		list = g.relay.Append(list)
		list = g.forwarder.Append(list)
		list = g.ports.Append(list)
	})
	slices.SortFunc(list, func(a, b relay.Info) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.Guest.Compare(b.Guest), a.Remote.Compare(b.Remote))
	})
	return list
}

// Stats are gauges of the moment and counters since the start.
type Stats struct {
	Connecting  int // TCP connections in the making, of either direction
	Connections int // established TCP connections
	Mappings    int // UDP and echo mappings
	Sessions    int // clients of published UDP ports
	Total       relay.Totals
}

// Stats waits for the shard as Flows does.
func (g *Guest) Stats() (s Stats) {
	g.ask(func() {
		c := g.forwarder.Counts()
		attempts, sessions := g.ports.Counts()
		s = Stats{
			Connecting:  c.Dials + attempts,
			Connections: c.TCP,
			Mappings:    c.Mappings,
			Sessions:    sessions,
			Total:       g.relay.Totals(),
		}
	})
	return s
}

// ask runs f on the shard's thread and waits for it.
func (g *Guest) ask(f func()) {
	done := make(chan struct{})
	if !g.shard.Post(shard.TaskFunc(func() {
		f()
		close(done)
	})) {
		return
	}
	select {
	case <-done:
	case <-g.served:
	}
}
