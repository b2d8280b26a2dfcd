package guest

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"epiphyte/forwarder"
	"epiphyte/internal/dhcp"
	"epiphyte/internal/dns"
	"epiphyte/internal/flow"
	"epiphyte/internal/gate"
	"epiphyte/internal/names"
	"epiphyte/internal/policy"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/internal/steer"
	"epiphyte/portfwd"
	"epiphyte/stack"
)

// worker is what one thread runs: a queue of the device, and a stack, a table of
// flows, a forwarder and a relay of its own.
type worker struct {
	rules   *policy.Rules
	shard   *shard.Shard
	table   *flow.Table
	relay   *relay.Relay
	stack   *stack.Stack
	steered *steer.Worker // nil: there is only one worker
	gate    *gate.Gate    // nil: there is no policy, or one for each of several members
}

// newWorker builds worker i; after an error the caller closes what has been built.
// Worker 0 has the services.
func (g *Guest) newWorker(i int, cfg *Config) (w *worker, err error) {
	w = new(worker)
	if w.shard = cfg.Shard; w.shard == nil || i > 0 {
		if w.shard, err = shard.New(shard.Config{}); err != nil {
			return w, fmt.Errorf("start event loop: %w", err)
		}
	}
	var guests flow.Guests
	if cfg.Members != nil {
		guests = cfg.Members.Guest
	}
	w.table = flow.New(w.shard, cfg.Limits)
	w.table.Trace(cmp.Or(cfg.Logger, slog.Default()))
	w.table.OnFull = func() {
		cmp.Or(cfg.Logger, slog.Default()).Warn("a limit of flows is reached: the least used ones give way, or new ones are refused; more open files (ulimit -n) allow more")
	}
	w.relay = relay.New(relay.Config{Shard: w.shard, Table: w.table, Kernel: cfg.Kernel, Stay: cfg.Stay})
	batch := new(sockio.Batch)
	decider := g.decider(w, cfg)
	fc := forwarder.Config{
		Guests: guests, Plan: cfg.Rules.Plan, Policy: decider, Shard: w.shard, Table: w.table, Relay: w.relay, Batch: batch,
		Source: cfg.Source, Logger: cfg.Logger,
	}
	sc := stack.Config{
		Device: cfg.Device, Shard: w.shard, Plan: cfg.Rules.Plan, MTU: cfg.MTU,
		BufferBytes: cfg.BufferBytes, Logger: cfg.Logger,
	}
	if i == 0 {
		g.serve0(w, cfg, &fc, &sc)
		if cfg.Host != nil {
			if err := cfg.Host.Attach(w.shard); err != nil {
				return w, err
			}
		}
	}
	if g.steering != nil {
		w.steered = g.steering.Worker(i)
		sc.Device, sc.Claims = w.steered, g.steering
		sc.Worker, sc.Workers = i, 1+len(cfg.Queues)
	}
	f := forwarder.New(fc)
	sc.Handler = f
	if w.stack, err = stack.New(sc); err != nil {
		return w, fmt.Errorf("build network stack: %w", err)
	}
	if w.steered != nil {
		w.steered.Attach(w.shard, w.stack)
	}
	if cfg.Members != nil {
		cfg.Members.Attach(w.stack)
	}
	if i > 0 {
		f.Attach(w.stack, nil)
		return w, nil
	}
	pc := portfwd.Config{
		Guests: guests, Plan: cfg.Rules.Plan, Policy: decider, Shard: w.shard, Table: w.table, Relay: w.relay, Batch: batch,
		Stack: w.stack, Mode: cfg.PublishMode, Logger: cfg.Logger,
		GuestSockets: cfg.GuestSockets, HostPorts: cfg.HostPorts, GuestPorts: cfg.GuestPorts,
		LoopbackServers: cfg.Rules.LoopbackToLoopback || cfg.Rules.Plan.LoopbackOnly(),
	}
	if cfg.Sockets != nil {
		if err := cfg.Sockets.Attach(w.shard); err != nil {
			return w, err
		}
		pc.Sockets = w.socketsFor(cfg)
	}
	if cfg.Members != nil {
		pc.Sockets = cfg.Members.Sockets
	}
	if g.steering != nil {
		pc.Claims = g.steering
	}
	g.ports = portfwd.New(pc)
	f.Attach(w.stack, g.ports)
	return w, nil
}

// socketsFor returns the one guest's sockets for its own addresses, and for any address if
// the user has asked for the direct path.
func (w *worker) socketsFor(cfg *Config) func(netip.Addr) portfwd.Sockets {
	return func(a netip.Addr) portfwd.Sockets {
		own := cfg.Rules.Plan.IsGuest(a) || a == w.stack.GuestAddr4() || a == w.stack.GuestAddr6()
		if own || cfg.PublishMode == portfwd.DirectOnly {
			return cfg.Sockets
		}
		return nil
	}
}

// serve0 adds the services of worker 0: names, leases and advertisements.
func (g *Guest) serve0(w *worker, cfg *Config, fc *forwarder.Config, sc *stack.Config) {
	p := cfg.Rules.Plan
	dc := dhcp.Config{
		Plan: p, MTU: cfg.MTU, Resolvers: cfg.Names.Resolvers, Search: cfg.Names.Search, Hostname: cfg.Names.Hostname, FQDN: cfg.Names.FQDN,
	}
	rc := dns.Config{Shard: w.shard, ResolvConf: cfg.ResolvConf, Nameservers: cfg.Nameservers, Source: cfg.Source, Logger: cfg.Logger}
	host := &hostNames{
		table: names.NewHost(hostAddrs(&cfg.Rules), cfg.Members == nil), // a network's gateway has a name
		gate:  func(netip.Addr) *gate.Gate { return w.gate },
		next:  func([]byte, netip.AddrPort, bool) ([]byte, bool) { return nil, false },
	}
	if m := cfg.Members; m != nil {
		dc.AddressOf, sc.Neighbors = m.AddressOf, m.Neighbor
		host.gate, host.next, rc.Rewrite = g.members.of, g.members.Answer, g.members.Rewrite
	}
	if w.gate != nil {
		host.next, rc.Rewrite = w.gate.Answer, w.gate.Rewrite
	}
	rc.Local = host.Answer
	fc.DHCP = dhcp.New(dc)
	if p.IPv6() && !cfg.DisableAdvertisements {
		sc.RouterAdvertisement = dhcp.RouterAdvertisement(dc, !cfg.StaticIPv6)
	}
	if cfg.StaticIPv4 {
		sc.GuestAddr4 = p.Guest
	}
	if cfg.StaticIPv6 {
		sc.GuestAddr6 = p.Guest6
	}
	sc.DisableNDP = cfg.DisableNDP
	if !cfg.Rules.DisableDNS {
		g.resolver = dns.New(rc)
		fc.DNS = g.resolver
		cfg.Rules.NameServer = g.resolver.First
	}
}

// close ends the flows of the worker, then their stack.
func (w *worker) close() {
	if w.table != nil {
		w.table.Close()
		w.relay.Close()
	}
	if w.stack != nil {
		w.stack.Close()
	}
}

// serve runs the worker's shard until ctx ends, or ends it with the reason why it
// cannot go on.
func (w *worker) serve(ctx context.Context, cancel context.CancelCauseFunc) error {
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		select {
		case err := <-w.stack.Failed():
			cancel(err)
		case <-ctx.Done():
		}
	}()
	err := w.shard.Serve(ctx)
	cancel(err)
	<-watcher
	return err
}
