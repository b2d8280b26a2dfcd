package cli

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/portfwd"
	"epiphyte/tap"
)

// ports are the sockets that take clients in either direction. They are there
// before the TAP is, so that a busy port leaves no TAP that nobody serves.
type ports struct {
	published []*portfwd.Bound
	exposed   []exposed
}

// exposed is a port of the host with the sockets that listen in the guest.
type exposed struct {
	host      uint16
	listening []int
}

// bindPorts binds all ports, or none.
func (o *Options) bindPorts(ctx context.Context, target tap.Target) (p *ports, err error) {
	p = new(ports)
	if p.published, err = portfwd.Bind(ctx, o.Plan, o.Publish); err != nil {
		return nil, err
	}
	if err := p.listen(ctx, target, o.Expose, o.Plan.IPv6()); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// listen takes the ports of the guest's loopback.
func (p *ports) listen(ctx context.Context, target tap.Target, list []portfwd.Exposed, ipv6 bool) error {
	if len(list) == 0 {
		return nil
	}
	loopback := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if ipv6 {
		loopback = append(loopback, netip.IPv6Loopback())
	}
	var at []netip.AddrPort
	for _, e := range list {
		for _, a := range loopback {
			at = append(at, netip.AddrPortFrom(a, e.GuestPort))
		}
	}
	fds, err := tap.Listen(ctx, target, at)
	if err != nil {
		return fmt.Errorf("expose host ports: %w", err)
	}
	for i, e := range list {
		x := exposed{host: e.HostPort}
		for _, fd := range fds[i*len(loopback) : (i+1)*len(loopback)] {
			if fd >= 0 { // not IPv6 in a kernel without it
				x.listening = append(x.listening, fd)
			}
		}
		p.exposed = append(p.exposed, x)
	}
	return nil
}

// serve hands the sockets over.
func (p *ports) serve(m *portfwd.Manager) error {
	for len(p.published) > 0 {
		b := p.published[0]
		p.published = p.published[1:]
		if _, err := m.Serve(b); err != nil {
			return err
		}
	}
	for len(p.exposed) > 0 {
		x := p.exposed[0]
		p.exposed = p.exposed[1:]
		if err := m.Expose(x.host, x.listening...); err != nil {
			return err
		}
	}
	return nil
}

// close closes what was not handed over.
func (p *ports) close() {
	for _, b := range p.published {
		b.Close()
	}
	for _, x := range p.exposed {
		for _, fd := range x.listening {
			unix.Close(fd)
		}
	}
}
