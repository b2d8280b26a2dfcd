package cli

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockdiag"
	"epiphyte/portfwd"
	"epiphyte/tap"
)

// ports are the listening sockets of both directions. They are bound before the TAP is made,
// so that a busy port leaves no TAP that nobody serves.
type ports struct{ bound []*portfwd.Bound }

// expose binds the exposed ports as well, all of them or none, in the guest's namespace.
func (p *ports) expose(ctx context.Context, o *Options, target tap.Target) error {
	exposed, err := portfwd.BindExposed(ctx, o.Plan, o.Expose, socketsOf(target))
	p.bound = append(p.bound, exposed...)
	return err
}

// socketsOf makes sockets in a namespace that we may still enter.
func socketsOf(target tap.Target) portfwd.GuestSockets {
	return func(ctx context.Context, family, typ, n int) ([]int, error) {
		fds, err := tap.Sockets(ctx, target, tap.SocketKind{Family: family, Type: typ, Count: n})
		if err != nil {
			return nil, err
		}
		return fds[0], nil
	}
}

// followsServers reports whether ports may follow the servers of either side.
func (o *Options) followsServers() bool {
	return o.LivePorts || o.exposesLater() || slices.ContainsFunc(o.Publish, func(r portfwd.Rule) bool { return r.Auto })
}

// openDiag opens the sockets that list the servers of either side, if ports may follow them.
func (o *Options) openDiag(ctx context.Context, target tap.Target) (host, guest *sockdiag.Socket, err error) {
	if !o.followsServers() || target.FD > 0 {
		return nil, nil, nil
	}
	fds, err := tap.Sockets(ctx, target, tap.SocketKind{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_SOCK_DIAG, Count: 1})
	if err != nil {
		return nil, nil, err
	}
	guest = sockdiag.New(fds[0][0])
	if host, err = sockdiag.Open(); err != nil {
		guest.Close()
		return nil, nil, err
	}
	return host, guest, nil
}

// serve hands the sockets over.
func (p *ports) serve(m *portfwd.Manager) error {
	for len(p.bound) > 0 {
		b := p.bound[0]
		p.bound = p.bound[1:]
		if _, err := m.Serve(b); err != nil {
			return err
		}
	}
	return nil
}

// close closes what was not handed over.
func (p *ports) close() {
	for _, b := range p.bound {
		b.Close()
	}
	p.bound = nil
}
