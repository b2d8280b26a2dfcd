package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"epiphyte/internal/api"
	"epiphyte/portfwd"
)

// ports are the published ports of a network. They are remembered with their members, so that
// the next worker has them, too.
type ports struct {
	*portfwd.Manager
	w *Worker
}

// Ports publishes ports of members. Rules must name the member's address.
func (w *Worker) Ports() api.Ports { return ports{w.guest.Ports(), w} }

// setPorts replaces the published ports of a member.
func (w *Worker) setPorts(ctx context.Context, m *membership, texts []string) error {
	for _, e := range w.Ports().List() {
		if m.has(e.Rule.Guest) {
			w.Ports().Remove(e.ID)
		}
	}
	if _, err := m.addPorts(ctx, w.Ports(), texts); err != nil {
		return fmt.Errorf("network %s: %w", w.def.Name, err)
	}
	return nil
}

// Add implements api.Ports.
func (p ports) Add(ctx context.Context, r portfwd.Rule) (portfwd.Entry, error) {
	m := p.w.at(r.Guest)
	switch {
	case m == nil:
		return portfwd.Entry{}, &portfwd.FieldError{Field: "guest_addr", Err: errors.New("several guests share this network: name the address of one")}
	case p.w.def.Internal:
		return portfwd.Entry{}, &portfwd.FieldError{Field: "guest_addr", Err: errInternal}
	}
	e, err := p.Manager.Add(ctx, r)
	if err == nil && p.w.at(r.Guest) != m { // it has left meanwhile
		p.Manager.Remove(e.ID)
		return portfwd.Entry{}, &portfwd.FieldError{Field: "guest_addr", Err: errors.New("the member has left")}
	}
	if err == nil && r.Guest == m.addressFor(e.Rule.Host) {
		err = p.w.remember(m, func() { m.Publish = append(m.Publish, e.Rule.String()) })
	}
	return e, err
}

// Remove implements api.Ports.
func (p ports) Remove(id int) error {
	list := p.List()
	i := slices.IndexFunc(list, func(e portfwd.Entry) bool { return e.ID == id })
	if err := p.Manager.Remove(id); err != nil || i < 0 {
		return err
	}
	m := p.w.at(list[i].Rule.Guest)
	if m == nil {
		return nil
	}
	return p.w.remember(m, func() {
		m.Publish = slices.DeleteFunc(m.Publish, func(text string) bool { return text == list[i].Rule.String() })
	})
}

// at returns the member with an address, nil if there is none.
func (w *Worker) at(a netip.Addr) *membership {
	for _, m := range w.list() {
		if m.has(a) {
			return m
		}
	}
	return nil
}

// remember changes what is known of a member, here and at the keeper.
func (w *Worker) remember(m *membership, change func()) error {
	w.changing.Lock() // so that the keeper hears last what is so last
	defer w.changing.Unlock()
	w.mu.Lock()
	change()
	w.mu.Unlock()
	known := w.describe(m)
	return w.tell(order{Op: opChange, Member: &known})
}
