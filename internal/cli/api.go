package cli

import (
	"context"
	"strconv"

	"epiphyte/internal/api"
	"epiphyte/internal/flow"
	"epiphyte/internal/forwards"
	"epiphyte/internal/guest"
)

// answer serves the control sockets that were prepared, and the one by which the guest is
// found.
func (o *Options) answer(ctx context.Context, n *guestNetwork, p *prepared, r *reporter) {
	cfg := api.Config{
		Ports:  n.guest.Ports(),
		Flows:  func() []api.Flow { return flows(n.guest) },
		Stats:  n.stats,
		Logger: r.log,
	}
	if n.frames != nil {
		cfg.Capture = n.frames.stream
	}
	if o.Forwards != nil {
		n.forwards = o.newForwards(n, r)
		cfg.Forwards = n.forwards
	}
	if o.Policy.active() {
		cfg.Policy = guestPolicy{n}
	}
	cfg.Guest = o.describe(n)
	cfg.Why = func(member, flow string) (*api.Why, error) { return o.why(n.guest, member, flow) }
	if o.FindSocket {
		o.listenFound(ctx, n, cfg, r)
	}
	for _, s := range p.sockets {
		n.servers = append(n.servers, s.serve(s.Socket, cfg))
	}
	p.sockets = nil
	// We hold the socket now, and with it the forwards remembered beside it.
	if n.forwards != nil {
		n.forwards.Restore(ctx)
	}
	for _, server := range n.servers {
		go server.Serve(ctx)
	}
}

// newForwards returns the ports of pasta's options, which are remembered beside the socket.
func (o *Options) newForwards(n *guestNetwork, r *reporter) *forwards.Set {
	cfg := forwards.Config{Ports: n.guest.Ports(), Table: *o.Forwards, Freebind: o.Freebind, Logger: r.log}
	if o.ConfSocket != "" {
		cfg.Dir = o.ConfSocket + ".d"
	}
	return forwards.New(cfg)
}

// flows describes the guest's flows as the control sockets show them.
func flows(g *guest.Guest) []api.Flow {
	infos := g.Flows()
	list := make([]api.Flow, len(infos))
	for i, f := range infos {
		list[i] = api.Flow{
			Proto: f.Proto, Member: f.Guest, Guest: f.Src, Remote: f.Remote, Host: f.Host, State: f.State.String(), Origin: f.Origin.String(),
			In: f.In, Out: f.Out, Age: f.Age.Seconds(), Idle: f.Idle.Seconds(),
		}
	}
	return list
}

// metrics names the guest's statistics. The HTTP socket adds the prefix and the
// suffix that Prometheus recommends.
func metrics(g *guest.Guest) []api.Metric {
	s := g.Stats()
	one := func(n uint64) []api.Value { return []api.Value{{N: n}} }
	list := []api.Metric{
		{Name: "flows", Help: "Current flows", Label: "kind", Values: []api.Value{
			{Label: "connecting", N: uint64(s.Connecting)},
			{Label: "tcp", N: uint64(s.Connections)},
			{Label: "mapping", N: uint64(s.Mappings)},
			{Label: "session", N: uint64(s.Sessions)},
		}},
		{Name: "published_rules", Help: "Published ports and ranges", Values: one(uint64(len(g.Ports().List())))},
		{Name: "tcp_connections", Help: "TCP connections established since the start", Counter: true, Values: one(s.Total.Connections)},
		{Name: "tcp_bytes", Help: "Bytes of TCP payload carried since the start", Counter: true, Label: "direction", Values: []api.Value{
			{Label: "in", N: s.Total.In},
			{Label: "out", N: s.Total.Out},
		}},
		{Name: "flows_refused", Help: "Flows that there was no room for since the start", Counter: true, Values: one(s.Total.Refused)},
		{Name: "connections_carried", Help: "TCP connections that were handed over to the guest's kernel since the start", Counter: true, Values: one(s.Total.Carried)},
		{Name: "connections_stayed", Help: "Attempts at that which left the connection where it was, since the start", Counter: true, Values: one(s.Total.Stayed)},
		{Name: "flows_evicted", Help: "Flows that gave way to others since the start", Counter: true, Values: one(s.Total.Evicted)},
		{Name: "limits_met", Help: "Times that a limit was met, by what is limited", Counter: true, Label: "limit", Values: limitsMet(&s)},
	}
	list = append(list, causeMetrics(&s)...)
	return append(list, workerMetrics(s.Workers)...)
}

// limitsMet counts how often each limit of the manual at which something is lost was met.
func limitsMet(s *guest.Stats) (values []api.Value) {
	s.Total.Met.Each(func(l flow.Limit, n uint64) { values = append(values, api.Value{Label: string(l), N: n}) })
	return append(values,
		api.Value{Label: "closed_connections", N: s.Frames.Orphans},
		api.Value{Label: "buffers", N: s.Frames.Buffers},
		api.Value{Label: "dns_connections", N: s.Queries.Streams},
		api.Value{Label: "dns_queries", N: s.Queries.Dropped},
		api.Value{Label: "neighbors", N: s.Frames.Neighbors})
}

// causeMetrics count what failed or was refused, by cause.
func causeMetrics(s *guest.Stats) []api.Metric {
	counter := func(name, help, label string, values ...api.Value) api.Metric {
		return api.Metric{Name: name, Help: help, Counter: true, Label: label, Values: values}
	}
	errnos := func(f *flow.Failures) (values []api.Value) {
		f.Each(func(errno string, n uint64) { values = append(values, api.Value{Label: errno, N: n}) })
		return values
	}
	f, q := &s.Frames, &s.Queries
	return []api.Metric{
		counter("forbidden_flows", "Connections, datagrams and pings of the guest that it may not have, and whether it was told", "answer",
			api.Value{Label: "refused", N: s.Total.Forbidden}, api.Value{Label: "none", N: s.Total.Ignored}),
		counter("connect_failures", "Connections of the guest that the host could not make", "errno", errnos(&s.Total.Dials)...),
		counter("client_failures", "Clients of published TCP ports that the guest did not accept", "errno", errnos(&s.Total.Clients)...),
		counter("dns_queries", "DNS queries of the guest: failed is without an answer, or with none but failures", "outcome",
			api.Value{Label: "answered", N: q.Answered}, api.Value{Label: "local", N: q.Local},
			api.Value{Label: "failed", N: q.Failed}, api.Value{Label: "dropped", N: q.Dropped}),
		counter("frames", "Frames that crossed the TAP", "direction", api.Value{Label: "in", N: f.ToFrames}, api.Value{Label: "out", N: f.FromFrames}),
		counter("frame_bytes", "Bytes of frames that crossed the TAP", "direction", api.Value{Label: "in", N: f.ToBytes}, api.Value{Label: "out", N: f.FromBytes}),
		counter("dropped_frames", "Frames dropped: malformed and martian ones from the guest, and those that the TAP refused", "reason",
			api.Value{Label: "malformed", N: f.Malformed}, api.Value{Label: "martian", N: f.Martian}, api.Value{Label: "refused", N: f.Refused}),
	}
}

// workerMetrics exist with several queues only.
func workerMetrics(workers []guest.WorkerStats) []api.Metric {
	if len(workers) == 0 {
		return nil
	}
	each := func(name, help string, count func(*guest.WorkerStats) uint64) api.Metric {
		m := api.Metric{Name: name, Help: help, Counter: true, Label: "worker"}
		for i := range workers {
			m.Values = append(m.Values, api.Value{Label: strconv.Itoa(i), N: count(&workers[i])})
		}
		return m
	}
	return []api.Metric{
		each("worker_frames", "Frames from the guest that arrived on the worker's own queue", func(l *guest.WorkerStats) uint64 { return l.Frames.Own }),
		each("worker_handed_frames", "Frames from the guest that arrived on another worker's queue", func(l *guest.WorkerStats) uint64 { return l.Frames.Handed }),
		each("worker_lost_frames", "Frames from the guest that were lost because the worker's inbox was full", func(l *guest.WorkerStats) uint64 { return l.Frames.Lost }),
		each("worker_tcp_connections", "TCP connections established by the worker", func(l *guest.WorkerStats) uint64 { return l.Connections }),
	}
}
