package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/flowlog"
	"epiphyte/internal/forwards"
	"epiphyte/internal/guest"
	"epiphyte/internal/policy"
	"epiphyte/internal/repair"
	"epiphyte/portfwd"
	"epiphyte/tap"
)

// guestNetwork is a guest being served: the device, and the stack behind it.
type guestNetwork struct {
	device   *tap.Device
	guest    *guest.Guest
	agent    *tap.Agent   // nil: none
	records  *flowlog.Log // nil: flows are not recorded
	sockets  []string     // paths of the proxies' sockets that a policy may name
	frames   *frames      // nil: nobody can ask for captures
	servers  []*api.Server
	found    string        // the socket by which it is found; empty: none
	config   tap.Config    // of the device
	forwards *forwards.Set // nil: none
	cancel   context.CancelFunc
	threads  <-chan struct{} // closed when all threads that serving needs exist
	ended    chan struct{}   // closed when Serve has returned
	err      error           // Serve's result, valid once ended is closed
}

// farewell bounds an orderly end. Nothing depends on it: the kernel closes whatever is left,
// and callers wait until we are gone.
const farewell = 100 * time.Millisecond

// tapConfig is the device as the options ask for it.
func (o *Options) tapConfig(target tap.Target, name string, configure bool, mac net.HardwareAddr, r *reporter) tap.Config {
	cfg := tap.Config{Target: target, Name: name, Queues: o.Queues, NoOffload: o.NoOffload, Logger: r.log}
	switch {
	case o.Standing != nil && configure:
		cfg.Configure = o.Standing.network(&o.Plan, mac)
	case o.Standing != nil:
		cfg.Configure = &tap.Network{MAC: mac, LinkDown: true}
	case configure:
		cfg.Configure = &tap.Network{
			Address: netip.PrefixFrom(o.Plan.Guest, o.Plan.Prefix.Bits()),
			Gateway: o.Plan.Gateway,
			MTU:     o.MTU,
			MAC:     mac,
		}
		if o.Plan.IPv6() {
			cfg.Configure.Address6 = netip.PrefixFrom(o.Plan.Guest6, o.Plan.Prefix6.Bits())
			cfg.Configure.Gateway6 = o.Plan.Gateway6
		}
	}
	return cfg
}

// startNetwork makes the device and begins to serve it with what was prepared on the host,
// which it takes over. It leaves nothing behind when it fails.
func (o *Options) startNetwork(ctx context.Context, p *prepared, cfg tap.Config, r *reporter) (_ *guestNetwork, err error) {
	limitMemory()
	threads := reserveThreads(o.Queues)
	o.warn(r)
	n := &guestNetwork{config: cfg, threads: threads, ended: make(chan struct{})}
	n.records, p.records = p.records, nil
	if p.rules != nil {
		n.sockets = p.rules.Sockets()
	}
	defer func() {
		p.close()
		if err != nil {
			n.discard()
		}
	}()
	if err := p.ports.expose(ctx, o, cfg.Target); err != nil {
		return nil, err
	}
	if n.device, err = tap.Open(ctx, cfg); err != nil {
		return nil, err
	}
	if cfg.Configure != nil && cfg.Configure.Address6.IsValid() && !n.device.HasIPv6() {
		r.log.Warn("IPv6 is off in the guest; it gets IPv4 only")
	}
	if n.agent, err = o.startAgent(ctx, cfg, r); err != nil {
		return nil, err
	}
	if err := o.capture(n, p, r); err != nil {
		return nil, err
	}
	gc := guest.Config{
		Device: n.captured(n.device),
		Rules: policy.Rules{
			Plan:                o.Plan,
			DisableHostLoopback: o.DisableHostLoopback,
			DisableDNS:          o.DisableDNS,
			Splice:              o.Splice,
			LoopbackToLoopback:  o.LoopbackToLoopback,
		},
		Policy:      p.rules,
		Record:      n.records.Func(),
		StaticIPv4:  cfg.Configure != nil && cfg.Configure.Address.IsValid(),
		StaticIPv6:  n.device.HasIPv6(),
		MTU:         o.MTU,
		Source:      o.Source,
		ResolvConf:  o.ResolvConf,
		PublishMode: o.PublishMode,
		Logger:      r.log,
	}
	if o.Standing != nil {
		o.Standing.configure(&gc)
	}
	for _, q := range n.device.Queues()[1:] {
		gc.Queues = append(gc.Queues, n.captured(q))
	}
	if n.agent != nil {
		gc.Sockets, gc.GuestSockets = n.agent, n.agent.Plain
		if o.carries(cfg) {
			kernel := &repair.Kernel{Agent: n.agent, After: o.carryAfter()}
			gc.Kernel = func(netip.Addr) *repair.Kernel { return kernel }
			if n.frames != nil {
				gc.Stay = n.frames.Running // who captures wants to see the frames
			}
		}
	}
	if gc.HostPorts, gc.GuestPorts, err = o.openDiag(ctx, cfg.Target); err != nil {
		return nil, err
	}
	if n.guest, err = guest.New(gc); err != nil {
		return nil, err
	}
	if err := p.ports.serve(n.guest.Ports()); err != nil {
		return nil, err
	}
	if n.agent != nil {
		// Without it clients go through the TAP, if the mode allows.
		if err := n.agent.Wait(ctx); err != nil && o.PublishMode == portfwd.DirectOnly {
			return nil, err
		}
	}
	serving, cancel := context.WithCancel(ctx)
	n.cancel = cancel
	go n.serve(serving)
	if o.StatsEvery > 0 {
		go logStats(serving, r.log, time.Tick(o.StatsEvery), n.stats)
	}
	o.answer(serving, n, p, r)
	return n, nil
}

// discard undoes a start that failed.
func (n *guestNetwork) discard() {
	if n.cancel != nil {
		n.Close()
		return
	}
	if n.guest != nil {
		n.guest.Close()
	}
	closeAgent(n.agent)
	n.frames.close()
	n.records.Close()
	if n.device != nil {
		n.device.Close()
	}
}

func (n *guestNetwork) serve(ctx context.Context) {
	n.err = n.guest.Serve(ctx)
	close(n.ended)
}

// Err is why serving ended by itself; ended must be closed.
func (n *guestNetwork) Err() error {
	if n.err == nil {
		return errors.New("the guest's network stack stopped")
	}
	return n.err
}

// Close stops serving and removes the device, waiting only briefly.
func (n *guestNetwork) Close() {
	for _, s := range n.servers {
		s.Close()
	}
	if n.forwards != nil {
		n.forwards.Close()
	}
	n.cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-n.ended
		n.guest.Close()
		n.frames.close()
		n.records.Close()
		closeAgent(n.agent)
		n.device.Close()
	}()
	select {
	case <-done:
	case <-time.After(farewell):
	}
}

// tapFD moves a TAP descriptor away from the numbers of the standard streams, which the
// device layer reserves.
func tapFD(fd int) (int, error) {
	if fd > 2 {
		return fd, nil
	}
	moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return 0, fmt.Errorf("use fd %d as TAP: %w", fd, err)
	}
	return moved, nil
}
