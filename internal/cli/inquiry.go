package cli

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"epiphyte/internal/api"
	"epiphyte/internal/guest"
	"epiphyte/internal/relay"
)

// inquiry is the sockets by which a running program is asked and told things.
type inquiry struct {
	servers []*api.Server
	served  sync.WaitGroup
}

// openInquiry makes the sockets whose paths are not empty and answers on them.
// Nothing is left when it fails. The guest must outlive the inquiry: requests
// under way wait for its shard.
func openInquiry(ctx context.Context, g *guest.Guest, control, http string, log *slog.Logger) (*inquiry, error) {
	began := time.Now()
	cfg := api.Config{
		Ports:  g.Ports(),
		Flows:  func() []api.Flow { return flowsOf(g.Flows()) },
		Stats:  func() []api.Metric { return metricsOf(g.Stats(), time.Since(began)) },
		Logger: log,
	}
	q := &inquiry{}
	for _, socket := range []struct {
		path   string
		listen func(string, api.Config) (*api.Server, error)
	}{{control, api.ListenControl}, {http, api.ListenHTTP}} {
		if socket.path == "" {
			continue
		}
		s, err := socket.listen(socket.path, cfg)
		if err != nil {
			q.Close()
			return nil, err
		}
		q.servers = append(q.servers, s)
		q.served.Go(func() {
			if err := s.Serve(ctx); err != nil {
				log.Error("socket is not answered any more", "path", socket.path, "error", err)
			}
		})
	}
	return q, nil
}

// Close removes the sockets and ends what is being asked by them.
func (q *inquiry) Close() {
	for _, s := range q.servers {
		s.Close()
	}
	q.served.Wait()
}

func flowsOf(infos []relay.Info) []api.Flow {
	text := func(a netip.AddrPort) string {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	flows := make([]api.Flow, len(infos))
	for i, f := range infos {
		flows[i] = api.Flow{
			Proto:  f.Proto,
			Guest:  text(f.Guest),
			Remote: text(f.Remote),
			Host:   text(f.Host),
			State:  f.State,
			In:     f.In,
			Out:    f.Out,
			Age:    f.Age,
			Idle:   f.Idle,
		}
	}
	return flows
}

// metricsOf names the numbers. Names are an interface: dashboards keep them.
func metricsOf(s guest.Stats, uptime time.Duration) []api.Metric {
	one := func(n uint64) []api.Value { return []api.Value{{N: n}} }
	return []api.Metric{
		{Name: "uptime_seconds", Help: "Time since the program began to serve", Values: one(uint64(uptime / time.Second))},
		{Name: "tcp_connecting", Help: "TCP connections in the making, of either direction", Values: one(uint64(s.Connecting))},
		{Name: "tcp_connections", Help: "Established TCP connections", Values: one(uint64(s.Connections))},
		{Name: "mappings", Help: "UDP and echo mappings", Values: one(uint64(s.Mappings))},
		{Name: "published_udp_clients", Help: "Clients of published UDP ports", Values: one(uint64(s.Sessions))},
		{Name: "tcp_opened", Help: "TCP connections established since the start", Counter: true, Values: one(s.Total.Connections)},
		{Name: "tcp_bytes", Help: "Bytes of TCP connections, in is towards the guest", Counter: true, Label: "direction",
			Values: []api.Value{{Label: "in", N: s.Total.In}, {Label: "out", N: s.Total.Out}}},
	}
}
