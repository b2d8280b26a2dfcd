package guest

import (
	"cmp"
	"slices"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
	"epiphyte/internal/steer"
)

// Flows lists the flows of the moment: connections, those in the making
// included, mappings and sessions. It waits for each shard, which must be
// serving; after Close it returns nil.
func (g *Guest) Flows() []flow.Info {
	var list []flow.Info
	g.ask(func(l *lane) { list = l.table.Append(list) })
	slices.SortFunc(list, func(a, b flow.Info) int {
		return cmp.Or(cmp.Compare(a.Guest, b.Guest), cmp.Compare(a.Proto, b.Proto), a.Src.Compare(b.Src), a.Remote.Compare(b.Remote))
	})
	return list
}

// Stats are gauges of the moment and counters since the start.
type Stats struct {
	Connecting  int // TCP connections in the making, of either direction
	Connections int // established TCP connections
	Mappings    int // UDP and echo mappings
	Sessions    int // clients of published UDP ports
	Total       flow.Totals
	Lanes       []LaneStats // with several queues
}

// LaneStats are one lane's part.
type LaneStats struct {
	Frames      steer.Stats
	Connections uint64 // established since the start
}

// Stats waits for the shards as Flows does. Those of several lanes are of one
// moment each.
func (g *Guest) Stats() (s Stats) {
	g.ask(func(l *lane) {
		t := l.table.Totals()
		s.Connecting += l.table.Count(flow.Dial) + l.table.Count(flow.Client)
		s.Connections += l.table.Count(flow.Conn) + l.table.Count(flow.Exposed)
		s.Mappings += l.table.Count(flow.Mapping)
		s.Sessions += l.table.Count(flow.Session)
		s.Total.Connections += t.Connections
		s.Total.In += t.In
		s.Total.Out += t.Out
		if l.steered != nil {
			s.Lanes = append(s.Lanes, LaneStats{Frames: l.steered.Stats(), Connections: t.Connections})
		}
	})
	return s
}

// ask runs f on each lane's thread, one after the other, and waits for it.
func (g *Guest) ask(f func(*lane)) {
	for _, l := range g.lanes {
		done := make(chan struct{})
		if !l.shard.Post(shard.TaskFunc(func() {
			f(l)
			close(done)
		})) {
			return
		}
		select {
		case <-done:
		case <-g.served:
			return
		}
	}
}
