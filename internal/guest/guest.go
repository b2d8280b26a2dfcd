// Package guest assembles the network of one guest: workers of a shard, a stack and
// a forwarder each, and the services of the address plan, over one frame device. The
// device may be a bridge that several guests share; see Members.
//
// # Theory of operation
//
// Everything that belongs to a guest hangs on its Guest: the device, the plan,
// the thread that moves its packets, the sockets that stand for it. Nothing is
// shared between two of them, so one process may serve several.
//
// There is a worker for each queue of the device, nearly always one. Worker 0 has the
// services as well: names, leases, advertisements, published ports. With several
// workers, package steer sees to it that each flow is one worker's alone, and limits
// are divided among them; with one there is no such thing.
//
// New builds the parts from the bottom up and leaves nothing behind when one of
// them fails. Serve runs worker 0 on the calling goroutine and the others on their
// own, and ends with its context or with the device. Close takes the parts down in
// the reverse order; after it no goroutine, descriptor or timer of the guest is
// left, the device excepted, which belongs to the caller.
//
// Timers: one, for the router advertisements that nobody asked for, every 200
// to 600 s; only with IPv6.
//
// What it does not do: it opens no device and parses no flag.
package guest

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"epiphyte/internal/dhcp"
	"epiphyte/internal/dns"
	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/gate"
	"epiphyte/internal/outbound"
	"epiphyte/internal/policy"
	"epiphyte/internal/repair"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockdiag"
	"epiphyte/internal/steer"
	"epiphyte/portfwd"
	"epiphyte/stack"
)

// Config of a Guest. Device and Rules.Plan are required.
type Config struct {
	Device stack.Device
	// Queues are further queues of the same device.
	Queues []stack.Device
	// Shard of worker 0, which the Guest closes, even if New fails. nil: a new one.
	Shard *shard.Shard
	// Members are the guests of a device that several share; nil: there is one guest.
	// Not with Queues.
	Members Members
	// Rules decide what the guest may reach, and where.
	Rules policy.Rules
	// Policy restricts that by name, network and port; nil: no restriction. Not with
	// Members, which each have their own: SetMemberPolicy.
	Policy *egress.Policy
	// Record gets the records of flows under a Policy, on the shard's thread; may be nil.
	Record func(egress.Record)
	// StaticIPv4 and StaticIPv6 say that the guest has been given Rules.Plan.Guest and
	// Guest6. Then no other address is taken for its own, and router advertisements do not
	// make it choose another one.
	StaticIPv4, StaticIPv6 bool
	// MTU of the guest's link in bytes, 1500 if zero.
	MTU int
	// Source of the host's sockets; nil: the kernel chooses.
	Source *outbound.Source
	// Host tells the host's main addresses, which the plan's HostAddrs stand for; nil: it
	// has none. It stays the caller's, who closes it after the Guest.
	Host Host
	// ResolvConf names the host's resolvers; /etc/resolv.conf if empty. Nameservers, if
	// there are any, are asked instead.
	ResolvConf  string
	Nameservers []netip.Addr
	// Names are told to the guest by DHCP and router advertisements.
	Names Names
	// DisableAdvertisements sends no router advertisements, and DisableNDP answers
	// nothing of neighbour discovery at all.
	DisableAdvertisements, DisableNDP bool
	// Limits of all flows together.
	Limits flow.Limits
	// BufferBytes bounds the TCP buffers of all connections; 0 is the default
	// of package stack.
	BufferBytes int
	// Sockets of the one guest's network namespace, for published ports; nil: they
	// go through the device. Not with Members.
	Sockets     Sockets
	PublishMode portfwd.Mode
	// Kernel is that of a guest's address, which carries connections that move much, unless
	// Stay says that they stay; nil: none is carried. Not with Queues.
	Kernel func(guest netip.Addr) *repair.Kernel
	Stay   func() bool
	// GuestSockets makes further ones, for ports that are exposed later; nil: there are
	// no such ports.
	GuestSockets portfwd.GuestSockets
	// HostPorts and GuestPorts list the servers of either side, for ports that follow them;
	// nil: there are no such ports. The Guest closes them, even if New fails.
	HostPorts, GuestPorts *sockdiag.Socket
	Logger                *slog.Logger
}

// Host follows the host's network. It is attached to the shard of worker 0; Main is called
// by any of them.
type Host interface {
	Attach(*shard.Shard) error
	// Main is the host's main address of a family now, not valid if it has none.
	Main(v6 bool) netip.Addr
}

// Names are told to a guest that asks for its configuration, as far as they are set.
type Names struct {
	// Resolvers of either family; nil: the plan's, unless the guest's subnets lie
	// outside.
	Resolvers []netip.Addr
	Search    []string // domains of names without dots
	Hostname  string   // the guest's own
	FQDN      string   // and as others know it
}

// Members are the guests that share one device. Except for Neighbor, the methods are
// called on the thread of the shard.
type Members interface {
	// Attach sets the handler to call when frames for the gateway or for outside wait.
	Attach(shard.Handler)
	// Neighbor is the Ethernet address of the member that has an IP address. Any
	// goroutine may call it.
	Neighbor(netip.Addr) (mac [6]byte, ok bool)
	// AddressOf is the IPv4 address of the member that has an Ethernet address.
	AddressOf(mac [6]byte) (netip.Addr, bool)
	// Guest is the member that has an IP address, as flows refer to it; nil: none has.
	Guest(netip.Addr) *flow.Guest
	// Sockets are those of the namespace of the member that has an IP address, for
	// published ports; nil: they go through the device.
	Sockets(netip.Addr) portfwd.Sockets
	// Answer answers DNS queries about the members; see dns.Config.Local.
	Answer(query []byte, from netip.AddrPort, stream bool) (answer []byte, ok bool)
}

// Sockets are handed out on the thread of one shard, to which they are attached before
// it serves.
type Sockets interface {
	portfwd.Sockets
	Attach(*shard.Shard) error
}

// Guest is the running network of one guest.
type Guest struct {
	workers  []*worker
	steering *steer.Group // nil with one worker
	ports    *portfwd.Manager
	resolver *dns.Resolver
	memory   *gate.Memory // of the workers' gates together
	members  *memberGates // nil: there is one guest
	ipv6     bool
	served   chan struct{} // closed when Serve has returned
	announce shard.Timer

	advertised int // router advertisements sent unasked
}

// New builds the network. The device must be open and stays the caller's.
func New(cfg Config) (_ *Guest, err error) {
	if cfg.Host != nil {
		cfg.Rules.HostAddr = cfg.Host.Main
	}
	g := &Guest{ipv6: cfg.Rules.Plan.IPv6(), served: make(chan struct{})}
	if cfg.Policy != nil {
		g.memory = gate.NewMemory(1)
	}
	// The runtime opens its poller with the first timer. Opened here, the
	// descriptors of an idle guest are all there before it is ready.
	time.AfterFunc(time.Hour, func() {}).Stop()
	defer func() {
		if err != nil {
			g.Close()
		}
		if g.ports == nil { // else it closes them
			for _, s := range [...]*sockdiag.Socket{cfg.HostPorts, cfg.GuestPorts} {
				if s != nil {
					s.Close()
				}
			}
		}
	}()
	if count := 1 + len(cfg.Queues); count > 1 {
		g.steering = steer.New(steer.Config{
			Queues:     append([]stack.Device{cfg.Device}, cfg.Queues...),
			Plan:       cfg.Rules.Plan,
			DisableDNS: cfg.Rules.DisableDNS,
		})
		cfg.Limits = cfg.Limits.Divided(count)
		cfg.BufferBytes = cmp.Or(cfg.BufferBytes, stack.DefaultBufferBytes) / count
	}
	for i := range 1 + len(cfg.Queues) {
		w, err := g.newWorker(i, &cfg)
		g.workers = append(g.workers, w)
		if err != nil {
			return nil, err
		}
		g.resolve(w)
	}
	if g.ipv6 && !cfg.DisableAdvertisements && !cfg.DisableNDP {
		// The first one at once: a guest whose link is already up has sent its
		// solicitation before we could hear it.
		g.advertise()
	}
	return g, nil
}

// advertise sends a router advertisement and arms the timer for the next.
func (g *Guest) advertise() {
	g.workers[0].stack.SendRouterAdvertisement()
	g.advertised++
	g.workers[0].shard.Arm(&g.announce, dhcp.AdvertisementDelay(g.advertised, rand.Float64()), shard.TaskFunc(g.advertise))
}

// Ports publishes host ports to the guest.
func (g *Guest) Ports() *portfwd.Manager { return g.ports }

// Serve moves packets until ctx ends (nil) or the device fails
// (stack.ErrDeviceGone). It is called once.
func (g *Guest) Serve(ctx context.Context) error {
	defer close(g.served)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	others := make(chan error)
	for _, w := range g.workers[1:] {
		go func() { others <- w.serve(ctx, cancel) }()
	}
	err := g.workers[0].serve(ctx, cancel)
	for range g.workers[1:] {
		err = cmp.Or(err, <-others)
	}
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
	defer g.closeGates()
	for _, w := range g.workers {
		w.close()
	}
	if g.resolver != nil {
		g.resolver.Close()
	}
	var err error
	for _, w := range g.workers {
		if w.shard != nil {
			err = errors.Join(err, w.shard.Close())
		}
	}
	return err
}
