package cli

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"

	"epiphyte/internal/addressing"
	"epiphyte/internal/namespace"
	"epiphyte/internal/netdef"
	"epiphyte/tap"
)

// runTAP is the name of the guest's interface, as slirp4netns's users know it.
const runTAP = "tap0"

// run makes the namespaces, serves them and runs the command in them. It
// returns the command's exit status, or 1 when it could not be started.
func (c *Run) run(ctx context.Context, prog string, stderr io.Writer) int {
	if len(c.Networks) > 0 {
		return c.runMember(ctx, prog, stderr)
	}
	r := newReporter(prog, &c.Options, stderr)
	if err := r.toFile(&c.Options); err != nil {
		return r.fail(err)
	}
	defer r.close()
	io.WriteString(stderr, c.Notices)

	if status := namespace.Missing(stderr, c.Command[0], prog); status != 0 {
		return status
	}
	ids, err := c.ids()
	if err == nil {
		err = c.chooseIPv6(r)
	}
	if err != nil {
		return r.fail(err)
	}
	host, err := c.prepare(ctx, r)
	if err != nil {
		return r.fail(err)
	}
	defer host.close()
	signals := namespace.CatchSignals()
	defer signals.Close()
	var p *namespace.Process
	var n *guestNetwork
	orphans := namespace.AdoptOrphans(func(pid int) bool { return pid == p.PID() || n.isAgent(pid) })
	defer orphans.Close()
	p, err = namespace.Start(namespace.Config{
		IDs:         ids,
		Isolated:    c.KillChildren,
		Command:     c.Command,
		Nameservers: c.nameservers(),
		Interfaces:  []string{runTAP},
		Queues:      c.Queues,
	})
	if err != nil {
		return r.fail(err)
	}
	defer p.Close()
	for _, w := range p.Warnings {
		r.log.Warn(w)
	}
	cfg := c.tapConfig(tap.Target{PID: p.PID()}, runTAP, true, nil, r)
	cfg.Transient = true
	n, err = c.startNetwork(ctx, host, cfg, r)
	if err != nil {
		return r.fail(err)
	}
	defer n.Close()
	if err := c.confine(n, p.Child(), r); err != nil {
		return r.fail(err)
	}
	if err := p.Release(); err != nil {
		return r.fail(err)
	}

	status := await(ctx, r, p, signals, orphans, n.ended, func(struct{}) error {
		// The command may still have work to do without a network.
		return fmt.Errorf("%s: %w; the command goes on without a network", runTAP, n.Err())
	})
	if left := orphans.Living(); len(left) > 0 {
		r.log.Warn("processes that the command has left go on without a network; --kill-children ends them", "processes", left)
	}
	return status
}

// await passes signals on until the command has ended, and returns its status. What lost
// delivers, and its closing, is only reported. orphans may be nil.
func await[T any](ctx context.Context, r *reporter, p *namespace.Process, signals *namespace.Signals, orphans *namespace.Orphans, lost <-chan T, say func(T) error) int {
	for {
		select {
		case sig := <-signals.C():
			p.Forward(sig)
			if sig == syscall.SIGCHLD && orphans != nil {
				orphans.Living() // reaps the dead ones
			}
		case <-ctx.Done():
			return r.fail(ctx.Err())
		case what, more := <-lost:
			r.fail(say(what))
			if !more {
				lost = nil
			}
		case <-p.Done():
			status, err := p.Status()
			if err != nil {
				return r.fail(err)
			}
			return status
		}
	}
}

// chooseIPv6 gives the guest the first network, from the default on, that no route of the
// host leads to, unless --cidr6 was given.
func (c *Run) chooseIPv6(r *reporter) (err error) {
	if c.FixedIPv6 || !c.Plan.IPv6() {
		return nil
	}
	routes, _ := netdef.HostRoutes() // without them no choice is better than another
	free, ok := addressing.FreeIPv6(routes)
	if !ok || free == c.Plan.Prefix6 {
		return nil
	}
	r.log.Debug("a route of the host leads to the default IPv6 network; the guest has another", "subnet", free)
	c.Plan, err = addressing.New(c.Plan.Prefix, free)
	return err
}

// ids returns the users and groups of the command's user namespace.
func (c *Run) ids() (namespace.IDs, error) {
	return namespace.MapIDs(os.Geteuid(), os.Getegid(), c.MapCurrent, c.MapAuto)
}

// nameservers returns the plan's, unless DNS is disabled.
func (c *Run) nameservers() []netip.Addr {
	if c.DisableDNS {
		return nil
	}
	servers := []netip.Addr{c.Plan.DNS}
	if c.Plan.IPv6() {
		servers = append(servers, c.Plan.DNS6)
	}
	return servers
}
