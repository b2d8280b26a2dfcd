package cli

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"epiphyte/internal/namespace"
	"epiphyte/tap"
)

// interfaceOf is the name of a member's interface on its i-th network, as people know it
// from containers.
func interfaceOf(i int) string { return fmt.Sprintf("eth%d", i) }

// runMember runs the command as a member of networks. It returns the command's exit
// status, or 1 when it could not be started.
//
// It does not give up rights as a network's process does: it handles nothing that the guest
// sends, and may have to start the network again.
func (c *Run) runMember(ctx context.Context, prog string, stderr io.Writer) int {
	r := newReporter(prog, &c.Options, stderr)
	if err := r.toFile(&c.Options); err != nil {
		return r.fail(err)
	}
	defer r.close()
	io.WriteString(stderr, c.Notices)
	if err := c.Policy.checkMember(); err != nil {
		return r.fail(err)
	}

	if status := namespace.Missing(stderr, c.Command[0], prog); status != 0 {
		return status
	}
	ids, err := c.ids()
	if err != nil {
		return r.fail(err)
	}
	signals := namespace.CatchSignals()
	defer signals.Close()
	members, err := openNetworks(ctx, c.Networks)
	if err != nil {
		return r.fail(err)
	}
	defer func() { closeMembers(members) }()
	if err := takePolicies(members, &c.Policy); err != nil {
		return r.fail(err)
	}
	cfg := namespace.Config{Command: c.Command, IDs: ids, Hostname: c.Name, Isolated: c.KillChildren}
	for i, m := range members {
		cfg.Interfaces = append(cfg.Interfaces, interfaceOf(i))
		cfg.Search = append(cfg.Search, m.network)
	}
	cfg.Nameservers = nameserversOf(members)
	cfg.Options = []string{"ndots:0"}
	p, err := namespace.Start(cfg)
	if err != nil {
		return r.fail(err)
	}
	defer p.Close()
	for _, w := range p.Warnings {
		r.log.Warn(w)
	}
	for i, m := range members {
		device := tap.Config{Target: tap.Target{PID: p.PID()}, Name: interfaceOf(i), Transient: true, Logger: r.log}
		wish := c.wish(i, c.publishTexts())
		wish.Process = p.PID()
		m.startAgent(ctx, &c.Options, device, &wish)
		if err := m.join(ctx, device, wish, nil); err != nil {
			return r.fail(err)
		}
	}
	<-reserveThreads(0)
	for _, m := range members {
		m.hold(r)
	}
	if err := p.Release(); err != nil {
		return r.fail(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	left := removed(ctx, members)
	return await(ctx, r, p, signals, nil, left, func(m *member) error {
		m.close()
		return fmt.Errorf("network %s has removed this guest; the command goes on without it", m.network)
	})
}

// nameserversOf returns the resolvers of networks. Each knows the guest's neighbours on all
// of them, but an internal network's says that any other name does not exist, which ends the
// search; so those come last.
func nameserversOf(members []*member) (list []netip.Addr) {
	for _, internal := range [...]bool{false, true} {
		for _, m := range members {
			if m.info.Internal == internal && !m.info.NoDNS {
				list = append(list, m.info.Gateway)
			}
		}
	}
	return list
}

// publishTexts are the rules as members send them.
func (o *Options) publishTexts() (list []string) {
	for _, rule := range o.Publish {
		list = append(list, rule.String())
	}
	return list
}
