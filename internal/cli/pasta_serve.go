package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"epiphyte/internal/nswatch"
	"epiphyte/tap"
)

// serve serves a namespace that exists until it is gone or a signal comes, and returns the
// exit code. ready is called once everything works.
func (p *Pasta) serve(ctx context.Context, stderr io.Writer, ready func() error) int {
	r := newReporter(pastaName, &p.Options, stderr)
	if err := r.toFile(&p.Options); err != nil {
		return r.fail(err)
	}
	defer r.close()
	// Both end it with status 0 by contract. On SIGQUIT the Go runtime would print all stacks.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	hangups, forget := p.Policy.hangups()
	defer forget()
	watch, err := p.watch()
	if err != nil {
		return r.fail(err)
	}
	defer watch.Close()
	if err := p.copyHost(); err != nil {
		return r.fail(err)
	}
	defer p.Standing.close()
	host, err := p.prepare(ctx, r)
	if err != nil {
		return r.fail(err)
	}
	n, err := p.startNetwork(ctx, host, p.device(r), r)
	if err != nil {
		return r.fail(err)
	}
	defer n.Close()
	if err := p.settleIn(n, nil, r); err != nil {
		return r.fail(err)
	}
	if err := ready(); err != nil {
		return r.fail(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- watch.Wait(ctx) }()
	for {
		select {
		case <-hangups:
			if err := p.Policy.reload(n); err != nil {
				r.fail(fmt.Errorf("the policy in force stays: %w", err))
			}
		case err := <-gone:
			if err != nil && ctx.Err() == nil {
				return r.fail(err)
			}
			return 0
		case <-n.ended:
			if ctx.Err() != nil {
				return 0
			}
			return r.fail(fmt.Errorf("%s: %w; start again to make it anew", p.Standing.name, n.Err()))
		}
	}
}

// settleIn does what is left before the network may be used, and gives up rights last.
// command is the child to be signalled later, nil if there is none.
func (p *Pasta) settleIn(n *guestNetwork, command *os.Process, r *reporter) error {
	if p.Line.PIDFile != "" {
		if err := os.WriteFile(p.Line.PIDFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
			return fmt.Errorf("write the process's number: %w", err)
		}
	}
	err := p.confine(n, command, r)
	if err != nil && p.Line.PIDFile != "" {
		os.Remove(p.Line.PIDFile)
	}
	return err
}

// watch begins to watch the namespace, unless --no-netns-quit is given.
func (p *Pasta) watch() (*nswatch.Watch, error) {
	switch t := &p.Line.Target; {
	case t.NoNetNSQuit:
		return nswatch.Never(), nil
	case t.PID != 0:
		return nswatch.Process(t.PID)
	default:
		return nswatch.Path(t.NetNS)
	}
}

// device is the guest's interface as the command line asks for it.
func (p *Pasta) device(r *reporter) tap.Config {
	t := &p.Line.Target
	target := tap.Target{PID: t.PID, NetNS: t.NetNS, UserNS: t.UserNS}
	if t.PID != 0 && t.UserNS != "" { // else the process's own
		target.PID, target.NetNS = 0, fmt.Sprintf("/proc/%d/ns/net", t.PID)
	}
	if p.Line.NoTAP {
		return tap.Config{Target: target, LoopbackOnly: true, Logger: r.log}
	}
	return p.tapConfig(target, p.Standing.name, p.Line.Configure, p.Line.MAC, r)
}
