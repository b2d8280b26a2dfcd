// Package guest assembles the network of one guest: a shard, a stack, a
// forwarder and the services of the address plan, over one frame device.
//
// # Theory of operation
//
// Everything that belongs to a guest hangs on its Guest: the device, the plan,
// the thread that moves its packets, the sockets that stand for it. Nothing is
// shared between two of them, so one process may serve several.
//
// New builds the parts from the bottom up and leaves nothing behind when one of
// them fails. Serve runs the shard on the calling goroutine and ends with its
// context or with the device. Close takes the parts down in the reverse order;
// after it no goroutine, descriptor or timer of the guest is left, the device
// excepted, which belongs to the caller.
//
// Timers: one, for the router advertisements that nobody asked for, every 200
// to 600 s; only with IPv6.
//
// What it does not do: it opens no device and parses no flag.
package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"epiphyte/forwarder"
	"epiphyte/internal/dhcp"
	"epiphyte/internal/dns"
	"epiphyte/internal/outbound"
	"epiphyte/internal/plan"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/portfwd"
	"epiphyte/stack"
)

// Config of a Guest. Device and Plan are required.
type Config struct {
	Device stack.Device
	Plan   plan.Plan
	// MTU of the guest's link in bytes, 1500 if zero.
	MTU int
	// DisableHostLoopback keeps the gateway from standing for 127.0.0.1 and ::1.
	DisableHostLoopback bool
	// DisableDNS makes the plan's DNS address an ordinary destination.
	DisableDNS bool
	// PlainTCP leaves TCP to gVisor's own processors instead of the shard.
	PlainTCP bool
	// Source of the host's sockets; nil: the kernel chooses.
	Source *outbound.Source
	// ResolvConf names the host's resolvers; /etc/resolv.conf if empty.
	ResolvConf string
	Limits     forwarder.Limits
	// BufferBytes bounds the TCP buffers of all connections; 0 is the default
	// of package relay.
	BufferBytes int
	// Sockets of the guest's network namespace, for published ports; nil: they
	// go through the device.
	Sockets     portfwd.Sockets
	PublishMode portfwd.Mode
	Logger      *slog.Logger
}

// Guest is the running network of one guest.
type Guest struct {
	shard     *shard.Shard
	stack     *stack.Stack
	relay     *relay.Relay
	forwarder *forwarder.Forwarder
	ports     *portfwd.Manager
	resolver  *dns.Resolver
	ipv6      bool
	served    chan struct{} // closed when Serve has returned
	announce  shard.Timer

	advertised int // router advertisements sent unasked
}

// New builds the network. The device must be open and stays the caller's.
func New(cfg Config) (_ *Guest, err error) {
	g := &Guest{ipv6: cfg.Plan.IPv6(), served: make(chan struct{})}
	// The runtime opens its poller with the first timer. Opened here, the
	// descriptors of an idle guest are all there before it is ready.
	time.AfterFunc(time.Hour, func() {}).Stop()
	defer func() {
		if err != nil {
			g.Close()
		}
	}()
	if g.shard, err = shard.New(shard.Config{}); err != nil {
		return nil, fmt.Errorf("start event loop: %w", err)
	}
	g.relay = relay.New(g.shard, cfg.BufferBytes)
	fc := forwarder.Config{
		Rules: forwarder.Rules{
			Plan:                cfg.Plan,
			DisableHostLoopback: cfg.DisableHostLoopback,
			DisableDNS:          cfg.DisableDNS,
		},
		Shard:  g.shard,
		Relay:  g.relay,
		DHCP:   dhcp.New(dhcp.Config{Plan: cfg.Plan, MTU: cfg.MTU, MAC: cfg.Plan.HardwareAddr()}),
		Source: cfg.Source.For,
		Logger: cfg.Logger,
		Limits: cfg.Limits,
	}
	if !cfg.DisableDNS {
		g.resolver = dns.New(dns.Config{Shard: g.shard, ResolvConf: cfg.ResolvConf, Source: cfg.Source, Logger: cfg.Logger})
		fc.DNS = g.resolver
	}
	g.forwarder = forwarder.New(fc)
	sc := stack.Config{
		Device:   cfg.Device,
		Shard:    g.shard,
		Plan:     cfg.Plan,
		Handler:  g.forwarder,
		MTU:      cfg.MTU,
		PlainTCP: cfg.PlainTCP,
		Logger:   cfg.Logger,
	}
	if g.ipv6 {
		sc.RouterAdvertisement = dhcp.RouterAdvertisement(cfg.Plan, cfg.Plan.HardwareAddr(), cfg.MTU)
	}
	if g.stack, err = stack.New(sc); err != nil {
		return nil, fmt.Errorf("build network stack: %w", err)
	}
	g.forwarder.Attach(g.stack)
	g.ports = portfwd.New(portfwd.Config{
		Plan: cfg.Plan, Shard: g.shard, Relay: g.relay, Stack: g.stack,
		Sockets: cfg.Sockets, Mode: cfg.PublishMode, Logger: cfg.Logger,
	})
	g.forwarder.SetInbound(g.ports)
	if g.ipv6 {
		// The first one at once: a guest whose link is already up has sent its
		// solicitation before we could hear it.
		g.advertise()
	}
	return g, nil
}

// advertise sends a router advertisement and arms the timer for the next.
func (g *Guest) advertise() {
	g.stack.SendRouterAdvertisement()
	g.advertised++
	g.shard.Arm(&g.announce, dhcp.AdvertisementDelay(g.advertised, rand.Float64()), shard.TaskFunc(g.advertise))
}

// Ports publishes host ports to the guest.
func (g *Guest) Ports() *portfwd.Manager { return g.ports }

// Serve moves packets until ctx ends (nil) or the device fails
// (stack.ErrDeviceGone). It is called once.
func (g *Guest) Serve(ctx context.Context) error {
	defer close(g.served)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		select {
		case err := <-g.stack.Failed():
			cancel(err)
		case <-ctx.Done():
		}
	}()
	err := g.shard.Serve(ctx)
	cancel(nil)
	<-watcher
	if err == nil && errors.Is(context.Cause(ctx), stack.ErrDeviceGone) {
		err = stack.ErrDeviceGone
	}
	return err
}

// Close ends every flow and frees what the guest holds. Serve must have
// returned.
func (g *Guest) Close() error {
	if g.ports != nil {
		g.ports.Close()
	}
	if g.forwarder != nil {
		g.forwarder.Close()
	}
	if g.stack != nil {
		g.stack.Close()
	}
	if g.resolver != nil {
		g.resolver.Close()
	}
	if g.shard != nil {
		return g.shard.Close()
	}
	return nil
}
