package portfwd

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// Change is a set of rules that are added and removed together.
type Change struct {
	Add, Remove  []Rule
	Expose, Hide []Exposed
	// Lenient makes it no error to add a rule that exists, nor to remove one that does not.
	Lenient bool
}

// Add publishes the ports of a rule: all of them, or none and an error, which
// is a *FieldError, a *BindError or the context's. A port that was just
// released is tried again for bindPatience.
func (m *Manager) Add(ctx context.Context, r Rule) (Entry, error) {
	entries, err := m.change(ctx, &Change{Add: []Rule{r}})
	if err != nil {
		return Entry{}, err
	}
	return entries[0], nil
}

// Remove closes the ports of a rule. When it returns no more clients are
// accepted; those carried in already stay. ErrNoRule: there is no such rule.
func (m *Manager) Remove(id int) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.Lock()
	p := m.rules[id]
	m.mu.Unlock()
	if p == nil || p.exposed != nil {
		return fmt.Errorf("id %d: %w", id, ErrNoRule)
	}
	m.retire(map[*published]bool{p: true})
	return nil
}

// Change carries out all of a change, or nothing and returns an error: one of Add's, or
// ErrNoRule for a rule to be removed that is not in force. A rule to be removed is compared
// after what it leaves open has been filled in.
//
// Rules are removed when all that is added works, so a port may change where it leads, and
// no client finds it closed. It may not change the address that it is bound to in one
// change, where the kernel refuses both together.
func (m *Manager) Change(ctx context.Context, c Change) error {
	_, err := m.change(ctx, &c)
	return err
}

func (m *Manager) change(ctx context.Context, c *Change) ([]Entry, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	p := plan{m: m, lenient: c.Lenient, inForce: make(map[ruleKey]*published), gone: make(map[*published]bool)}
	if err := p.draw(c); err != nil {
		return nil, err
	}
	m.giveWay(p.rules)
	b := binder{clients: m.clients, spare: p.spare()}
	defer b.close()
	list, err := b.all(ctx, p.rules)
	if err != nil {
		return nil, err
	}
	more, err := bindExposed(ctx, &m.cfg.Plan, m.clients, p.exposed, m.cfg.GuestSockets)
	if err != nil {
		closeAll(list)
		return nil, err
	}
	entries, err := m.serve(append(list, more...))
	if err == nil {
		m.retire(p.gone)
	}
	return entries, err
}

// plan is what a change amounts to.
type plan struct {
	m       *Manager
	lenient bool
	inForce map[ruleKey]*published
	gone    map[*published]bool
	rules   []Rule // to be bound, resolved
	exposed []Exposed
}

// ruleKey tells rules apart by their contents. They are resolved.
type ruleKey struct {
	rule    Rule
	exposed Exposed
}

func (r Rule) key() ruleKey {
	r.HostPortEnd = uint16(int(r.HostPort) + r.Ports() - 1)
	return ruleKey{rule: r}
}

func (p *published) key() ruleKey {
	if p.exposed != nil {
		return ruleKey{exposed: *p.exposed}
	}
	return p.entry.Rule.key()
}

func (p *plan) draw(c *Change) error {
	all := p.m.inForce()
	for _, r := range all {
		p.inForce[r.key()] = r
	}
	for _, r := range c.Remove {
		err := r.resolve(&p.m.cfg.Plan)
		if err == nil {
			err = p.remove(r.key())
		}
		if err != nil {
			return fmt.Errorf("remove published port %v: %w", r, err)
		}
	}
	for _, e := range c.Hide {
		err := e.resolve()
		if err == nil {
			err = p.remove(ruleKey{exposed: e})
		}
		if err != nil {
			return fmt.Errorf("remove exposed port %v: %w", e, err)
		}
	}
	return p.add(c, all)
}

func (p *plan) remove(k ruleKey) error {
	r := p.inForce[k]
	if r == nil && !p.lenient {
		return ErrNoRule
	}
	if r != nil {
		p.gone[r] = true
	}
	return nil
}

// stays reports whether a rule to be added exists already and is kept: it was to be
// removed, or the change is lenient.
func (p *plan) stays(k ruleKey) bool {
	r := p.inForce[k]
	if r == nil || !p.gone[r] && !p.lenient {
		return false
	}
	delete(p.gone, r)
	return true
}

func (p *plan) add(c *Change, all []*published) error {
	add, expose := make([]Rule, 0, len(c.Add)), make([]Exposed, 0, len(c.Expose))
	for _, r := range c.Add {
		if err := r.resolve(&p.m.cfg.Plan); err != nil {
			return fmt.Errorf("publish %v: %w", r, err)
		}
		if !p.stays(r.key()) {
			add = append(add, r)
		}
	}
	for _, e := range c.Expose {
		if err := e.resolve(); err != nil {
			return fmt.Errorf("expose port %v: %w", e, err)
		}
		if !p.stays(ruleKey{exposed: e}) {
			expose = append(expose, e)
		}
	}
	// What stays is known only now.
	var others []Rule
	var otherExposed []Exposed
	for _, r := range all {
		switch {
		case p.gone[r]:
		case r.exposed != nil:
			otherExposed = append(otherExposed, *r.exposed)
		default:
			others = append(others, r.entry.Rule)
		}
	}
	said := make(map[ruleKey]bool)
	for _, r := range add {
		if p.lenient && said[r.key()] {
			continue
		}
		said[r.key()] = true
		if err := cmp.Or(r.conflict(others), r.conflict(p.rules)); err != nil {
			return fmt.Errorf("publish %v: %w", r, err)
		}
		p.rules = append(p.rules, r)
	}
	for _, e := range expose {
		if p.lenient && slices.Contains(p.exposed, e) {
			continue
		}
		if err := cmp.Or(e.conflict(otherExposed), e.conflict(p.exposed)); err != nil {
			return fmt.Errorf("expose port %v: %w", e, err)
		}
		p.exposed = append(p.exposed, e)
	}
	return nil
}

// spare returns copies of the sockets of removed rules, as far as added rules want the
// same place.
func (p *plan) spare() map[place]int {
	if len(p.gone) == 0 || len(p.rules) == 0 {
		return nil
	}
	wanted := make(map[place]bool)
	for i := range p.rules {
		r := &p.rules[i]
		for n := range r.Ports() {
			wanted[r.place(r.HostPort+uint16(n))] = true
		}
	}
	spare := make(map[place]int)
	p.m.onShard(func() { // since the shard closes sockets that were destroyed
		for r := range p.gone {
			for _, s := range r.sockets {
				fd := s.descriptor()
				if at := r.entry.Rule.place(sockio.LocalAddr(fd).Port()); wanted[at] {
					if fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
						spare[at] = fd
					}
				}
			}
		}
	})
	return spare
}
