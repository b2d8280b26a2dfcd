package cli

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockdiag"
	"epiphyte/portfwd"
	"epiphyte/tap"
)

// ports are the sockets that take clients in either direction. They are there
// before the TAP is, so that a busy port leaves no TAP that nobody serves.
type ports struct{ bound []*portfwd.Bound }

// bindPorts binds all ports, or none.
func (o *Options) bindPorts(ctx context.Context, target tap.Target) (*ports, error) {
	published, err := portfwd.Bind(ctx, o.Plan, o.Publish)
	if err != nil {
		return nil, err
	}
	p := &ports{published}
	exposed, err := portfwd.BindExposed(ctx, o.Plan, o.Expose, socketsOf(target))
	if err != nil {
		p.close()
		return nil, err
	}
	p.bound = append(p.bound, exposed...)
	return p, nil
}

// socketsOf makes sockets in a namespace that may still be entered.
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

// openDiag opens what tells the servers of either side, if that may be asked for.
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
}
