package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"epiphyte/internal/namespace"
	"epiphyte/tap"
)

// maxHostname is the longest name of a host in bytes (__NEW_UTS_LEN of linux/utsname.h).
const maxHostname = 64

// serveCommand runs a command, or the user's shell, in namespaces made for it, and returns
// its exit status.
func (p *Pasta) serveCommand(ctx context.Context, stderr io.Writer) int {
	r := newReporter(pastaName, &p.Options, stderr)
	if err := r.toFile(&p.Options); err != nil {
		return r.fail(err)
	}
	defer r.close()
	cfg := namespace.Config{Command: p.Line.Command, Hostname: pastaHostname(), Isolated: true, Queues: p.Queues, Speaker: pastaName}
	if len(cfg.Command) == 0 {
		cfg.Command, cfg.Login = []string{shell()}, true
	}
	if p.User != nil {
		cfg.User, cfg.Group = p.User.UID, p.User.GID
	}
	signals := namespace.CatchSignals()
	defer signals.Close()
	if err := p.copyHost(); err != nil {
		return r.fail(err)
	}
	defer p.Standing.close()
	if !p.Line.NoTAP {
		cfg.Interfaces = []string{p.Standing.name}
	}
	host, err := p.prepare(ctx, r)
	if err != nil {
		return r.fail(err)
	}
	defer host.close()
	command, err := namespace.Start(cfg)
	if err != nil {
		return r.fail(err)
	}
	defer command.Close()
	for _, w := range command.Warnings {
		r.log.Warn(w)
	}
	device := p.device(r)
	device.Target, device.Transient = tap.Target{PID: command.PID()}, true
	n, err := p.startNetwork(ctx, host, device, r)
	if err != nil {
		return r.fail(err)
	}
	defer n.Close()
	if err := p.settleIn(n, command.Child(), r); err != nil {
		return r.fail(err)
	}
	if err := command.Release(); err != nil {
		return r.fail(err)
	}
	return await(ctx, r, command, signals, nil, n.ended, func(struct{}) error {
		return fmt.Errorf("%s: %w; the command goes on without a network", p.Standing.name, n.Err())
	})
}

// pastaHostname makes the command's prompt differ from the host's.
func pastaHostname() string {
	host, err := os.Hostname()
	if err != nil {
		return pastaName
	}
	host, _, _ = strings.Cut(host, ".")
	name := pastaName + "-" + host
	return name[:min(len(name), maxHostname)]
}
