// Package apitest has a fake of what publishes ports, for tests of the control
// sockets and their clients.
//
// # Theory of operation
//
// Ports completes rules as *portfwd.Manager does and remembers them under numbers
// that are never used again, and Forwards keeps a table. Some host ports fail, or take
// long, on purpose. They open no socket and start no goroutine.
package apitest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"epiphyte/portfwd"
)

// Host ports that are not simply published.
const (
	InUse  = 81 // EADDRINUSE
	Denied = 82 // EACCES
	Slow   = 83 // is published when Hold is closed
)

// Ports implements api.Ports. It only remembers rules. The zero value is ready for
// use.
type Ports struct {
	Hold chan struct{} // nil: Slow is never published

	mu    sync.Mutex
	last  int
	rules []portfwd.Entry
}

// Add completes and remembers a rule, as *portfwd.Manager would.
func (p *Ports) Add(ctx context.Context, r portfwd.Rule) (portfwd.Entry, error) {
	if r.Proto == "" {
		r.Proto = portfwd.TCP
	}
	if err := r.Validate(); err != nil {
		return portfwd.Entry{}, fmt.Errorf("publish %v: %w", r, err)
	}
	if !r.Host.IsValid() {
		r.Host = netip.IPv4Unspecified()
	}
	if !r.Guest.IsValid() && r.Host.Is4() {
		r.Guest = netip.MustParseAddr("10.0.2.100")
	}
	if r.GuestPort == 0 {
		r.GuestPort = r.HostPort
	}
	bind := &portfwd.BindError{Proto: r.Proto, Addr: netip.AddrPortFrom(r.Host, r.HostPort)}
	switch r.HostPort {
	case InUse:
		bind.Errno, bind.Remedy = unix.EADDRINUSE, "another program has the port"
		return portfwd.Entry{}, fmt.Errorf("publish %v: %w", r, bind)
	case Denied:
		bind.Errno = unix.EACCES
		return portfwd.Entry{}, fmt.Errorf("publish %v: %w", r, bind)
	case Slow:
		select {
		case <-p.Hold:
		case <-ctx.Done():
			return portfwd.Entry{}, ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	e := portfwd.Entry{ID: p.last, Rule: r}
	p.rules = append(p.rules, e)
	return e, nil
}

// Remove forgets a rule; an unknown one is portfwd.ErrNoRule.
func (p *Ports) Remove(id int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.rules, func(e portfwd.Entry) bool { return e.ID == id })
	if i < 0 {
		return fmt.Errorf("id %d: %w", id, portfwd.ErrNoRule)
	}
	p.rules = slices.Delete(p.rules, i, i+1)
	return nil
}

// List returns the rules, by id.
func (p *Ports) List() []portfwd.Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.rules)
}
