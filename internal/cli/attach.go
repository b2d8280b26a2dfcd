package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"epiphyte/tap"
)

// run serves the guest until the exit fd hangs up, the TAP vanishes or ctx ends.
// It returns the exit code.
func (a *Attach) run(ctx context.Context, prog string, stdout, stderr io.Writer) int {
	r := newReporter(prog, &a.Options, stderr)
	if err := r.toFile(&a.Options); err != nil {
		return r.fail(err)
	}
	defer r.close()
	if a.Bess != "" {
		f, err := acceptBess(ctx, a.Bess, stderr)
		if err != nil {
			return r.fail(err)
		}
		defer f.Close()
		a.Target.FD = int(f.Fd())
	}
	if a.Target == (tap.Target{}) || a.Target.FD > 0 {
		fd, err := tapFD(a.Target.FD)
		if err != nil {
			return r.fail(err)
		}
		// A caller that opened the TAP itself configures it, too.
		a.Target.FD, a.Configure = fd, false
	}
	hangups, stop := a.Policy.hangups()
	defer stop()
	var target *os.File
	if a.ExitWithTarget {
		f, err := openProcess(a.Target.PID)
		if err != nil {
			return r.fail(err)
		}
		defer f.Close()
		target = f
	}
	p, err := a.prepare(ctx, r)
	if err != nil {
		return r.fail(err)
	}
	n, err := a.startNetwork(ctx, p, a.tapConfig(a.Target, a.Name, a.Configure, a.MAC, r), r)
	if err != nil {
		return r.fail(err)
	}
	defer n.Close()
	if err := a.confine(n, nil, r); err != nil {
		return r.fail(err)
	}

	io.WriteString(stdout, a.banner())
	a.ReadyFD.Notify()
	if a.ExitFD.num == a.ReadyFD.num {
		a.ExitFD.open = false // just closed
	}

	hangup := make(chan error, 1)
	if a.ExitFD.Given() {
		go func() { hangup <- a.ExitFD.WaitHangup(ctx) }()
	}
	targetEnd := processEnd(ctx, target)
	for {
		select {
		case <-targetEnd:
			r.log.Debug("the target has ended")
			return 0
		case <-hangups:
			if err := a.Policy.reload(n); err != nil {
				r.fail(fmt.Errorf("the policy in force stays: %w", err))
			}
		case err := <-hangup:
			if err != nil {
				return r.fail(err)
			}
			r.log.Debug("exit fd hung up")
			return 0
		case <-n.ended:
			if ctx.Err() != nil {
				return 0
			}
			return r.fail(fmt.Errorf("%s: %w; start again to make it anew", a.label(), n.Err()))
		}
	}
}

// label names the device in messages.
func (a *Attach) label() string {
	if a.Bess != "" {
		return "client of " + a.Bess
	}
	if a.Name == "" {
		return fmt.Sprintf("TAP fd %d", a.Target.FD)
	}
	return a.Name
}
