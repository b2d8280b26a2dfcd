package guest

import (
	"cmp"
	"slices"

	"epiphyte/internal/dns"
	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
	"epiphyte/internal/steer"
	"epiphyte/stack"
)

// Flows lists the flows of the moment: connections, those in the making
// included, mappings and sessions. It waits for each shard, which must be
// serving; after Close it returns nil.
func (g *Guest) Flows() []flow.Info {
	var list []flow.Info
	g.ask(func(w *worker) { list = w.table.Append(list) })
	slices.SortFunc(list, func(a, b flow.Info) int {
		return cmp.Or(cmp.Compare(a.Guest, b.Guest), cmp.Compare(a.Proto, b.Proto), a.Src.Compare(b.Src), a.Remote.Compare(b.Remote))
	})
	return list
}

// EndFlows ends the flows of one of the Members. It must be called on the thread of the
// shard.
func (g *Guest) EndFlows(of *flow.Guest) {
	for _, w := range g.workers {
		w.table.EndOf(of)
	}
}

// Stats are gauges of the moment and counters since the start.
type Stats struct {
	Connecting  int // TCP connections in the making, of either direction
	Connections int // established TCP connections
	Mappings    int // UDP and echo mappings
	Sessions    int // clients of published UDP ports
	Total       flow.Totals
	Frames      stack.Stats
	Queries     dns.Stats
	Workers     []WorkerStats // with several queues
}

// WorkerStats are one worker's part.
type WorkerStats struct {
	Frames      steer.Stats
	Connections uint64 // established since the start
}

// Stats waits for the shards as Flows does. Those of several workers are of one
// moment each.
func (g *Guest) Stats() (s Stats) {
	g.ask(func(w *worker) {
		t := w.table.Totals()
		s.Connecting += w.table.Count(flow.Dial) + w.table.Count(flow.Client)
		s.Connections += w.table.Count(flow.Conn) + w.table.Count(flow.Exposed)
		s.Mappings += w.table.Count(flow.Mapping)
		s.Sessions += w.table.Count(flow.Session)
		s.Total.Add(&t)
		s.Frames.Add(w.stack.Stats())
		if w.steered != nil {
			s.Workers = append(s.Workers, WorkerStats{Frames: w.steered.Stats(), Connections: t.Connections})
		}
		if w == g.workers[0] && g.resolver != nil {
			s.Queries = g.resolver.Stats()
		}
	})
	return s
}

// ask runs f on each worker's thread, one after the other, and waits for it.
func (g *Guest) ask(f func(*worker)) {
	for _, w := range g.workers {
		done := make(chan struct{})
		if !w.shard.Post(shard.TaskFunc(func() {
			f(w)
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
