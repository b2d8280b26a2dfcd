package guest

import (
	"context"
	"fmt"

	"epiphyte/forwarder"
	"epiphyte/internal/dhcp"
	"epiphyte/internal/dns"
	"epiphyte/internal/flow"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/internal/steer"
	"epiphyte/portfwd"
	"epiphyte/stack"
)

// lane is what one thread moves: a queue of the device, and a stack, a table of
// flows, a forwarder and a relay of its own.
type lane struct {
	shard   *shard.Shard
	table   *flow.Table
	relay   *relay.Relay
	stack   *stack.Stack
	steered *steer.Lane // nil: there is only one lane
}

// newLane builds lane i as far as it goes; after an error the caller closes it.
// Lane 0 has the services.
func (g *Guest) newLane(i int, cfg *Config) (l *lane, err error) {
	l = new(lane)
	if l.shard, err = shard.New(shard.Config{}); err != nil {
		return l, fmt.Errorf("start event loop: %w", err)
	}
	l.table = flow.New(l.shard, cfg.Limits)
	l.relay = relay.New(relay.Config{Shard: l.shard, Table: l.table, BufferBytes: cfg.BufferBytes})
	batch := new(sockio.Batch)
	fc := forwarder.Config{
		Plan: cfg.Rules.Plan, Policy: &cfg.Rules, Shard: l.shard, Table: l.table, Relay: l.relay, Batch: batch,
		Source: cfg.Source.For, Logger: cfg.Logger,
	}
	sc := stack.Config{
		Device: cfg.Device, Shard: l.shard, Plan: cfg.Rules.Plan, MTU: cfg.MTU, Logger: cfg.Logger,
	}
	if i == 0 {
		g.serve0(l, cfg, &fc, &sc)
	}
	if g.steering != nil {
		l.steered = g.steering.Lane(i)
		sc.Device, sc.Claims = l.steered, g.steering
		sc.Lane, sc.Lanes = i, 1+len(cfg.Queues)
	}
	f := forwarder.New(fc)
	sc.Handler = f
	if l.stack, err = stack.New(sc); err != nil {
		return l, fmt.Errorf("build network stack: %w", err)
	}
	if l.steered != nil {
		l.steered.Attach(l.shard, l.stack)
	}
	if i > 0 {
		f.Attach(l.stack, nil)
		return l, nil
	}
	pc := portfwd.Config{
		Plan: cfg.Rules.Plan, Policy: &cfg.Rules, Shard: l.shard, Table: l.table, Relay: l.relay, Batch: batch,
		Stack: l.stack, Mode: cfg.PublishMode, Logger: cfg.Logger,
	}
	if cfg.Sockets != nil {
		if err := cfg.Sockets.Attach(l.shard); err != nil {
			return l, err
		}
		pc.Sockets = cfg.Sockets
	}
	if g.steering != nil {
		pc.Claims = g.steering
	}
	g.ports = portfwd.New(pc)
	f.Attach(l.stack, g.ports)
	return l, nil
}

// serve0 adds the services of lane 0: names, leases and advertisements.
func (g *Guest) serve0(l *lane, cfg *Config, fc *forwarder.Config, sc *stack.Config) {
	p := cfg.Rules.Plan
	fc.DHCP = dhcp.New(dhcp.Config{Plan: p, MTU: cfg.MTU, MAC: p.HardwareAddr()})
	if p.IPv6() {
		sc.RouterAdvertisement = dhcp.RouterAdvertisement(p, p.HardwareAddr(), cfg.MTU)
	}
	if !cfg.Rules.DisableDNS {
		g.resolver = dns.New(dns.Config{Shard: l.shard, ResolvConf: cfg.ResolvConf, Source: cfg.Source, Logger: cfg.Logger})
		fc.DNS = g.resolver
	}
}

// close ends the flows of the lane, then their stack.
func (l *lane) close() {
	if l.table != nil {
		l.table.Close()
		l.relay.Close()
	}
	if l.stack != nil {
		l.stack.Close()
	}
}

// serve runs the lane's shard until ctx ends, or ends it with the reason why it
// cannot go on.
func (l *lane) serve(ctx context.Context, cancel context.CancelCauseFunc) error {
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		select {
		case err := <-l.stack.Failed():
			cancel(err)
		case <-ctx.Done():
		}
	}()
	err := l.shard.Serve(ctx)
	cancel(err)
	<-watcher
	return err
}
