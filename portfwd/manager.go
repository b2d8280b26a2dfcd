package portfwd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"epiphyte/internal/addressing"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// Config of a Manager. Plan, Policy, Shard, Table, Relay, Batch and Stack are
// required.
type Config struct {
	Guests flow.Guests // whose ports these are; may be nil where there is one guest
	Plan   addressing.Plan
	Policy policy.Decider
	Shard  *shard.Shard
	Table  *flow.Table
	Relay  *relay.Relay
	Batch  *sockio.Batch
	Stack  *stack.Stack
	// Sockets are those of the guest that has an address for its own, made in its
	// network namespace. It is asked on the shard's thread, once for each TCP client;
	// nil, or a nil result: the stack path only.
	Sockets func(netip.Addr) Sockets
	Mode    Mode
	Logger  *slog.Logger // the default is slog's
	// Claims is told of the clients of UDP ports; nil where one worker has all.
	Claims stack.Claims
}

// Manager holds the published ports of one guest. Add, Remove and List may be
// called by any goroutine while the shard serves, or before it does.
type Manager struct {
	cfg Config

	// The shard's thread only:
	paused  []*listener // waiting for descriptors
	retry   shard.Timer
	backlog policy.Backlog

	mu       sync.Mutex
	last     int               // the id given last
	rules    map[int]published // in force; guarded by mu
	removing map[int]published // taken back, not yet closed; guarded by mu
	exposed  []*exposedPort    // guarded by mu
	closed   bool
	ended    chan struct{} // closed by Close
}

type published struct {
	entry   Entry
	sockets []socket
}

// socket is a bound port: a listener or a UDP socket.
type socket interface {
	open() error // start to serve, on the shard's thread
	close()      // stop, on the shard's thread or when the shard has stopped
}

// New makes a manager without rules.
func New(cfg Config) *Manager {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Manager{
		cfg:      cfg,
		rules:    make(map[int]published),
		removing: make(map[int]published),
		ended:    make(chan struct{}),
	}
}

// Add publishes the ports of a rule: all of them, or none and an error, which
// is a *FieldError, a *BindError or the context's. A port that was just
// released is tried again for bindPatience.
func (m *Manager) Add(ctx context.Context, r Rule) (Entry, error) {
	err := r.resolve(&m.cfg.Plan)
	if err == nil {
		var others []Rule
		for _, e := range m.List() {
			others = append(others, e.Rule)
		}
		err = r.conflict(others)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("publish %v: %w", r, err)
	}
	b, err := bindRule(ctx, r)
	if err != nil {
		return Entry{}, err
	}
	return m.Serve(b)
}

// Serve begins to accept clients of ports that are bound. It takes the ports over,
// even when it fails, which it does only after Close.
func (m *Manager) Serve(b *Bound) (Entry, error) {
	r := b.rule
	sockets := make([]socket, len(b.fds))
	for i, fd := range b.fds {
		to := netip.AddrPortFrom(r.Guest, r.GuestPort+uint16(i))
		if r.Proto == TCP {
			sockets[i] = m.newTCPPort(fd, to)
		} else {
			sockets[i] = m.newUDPPort(fd, to)
		}
	}
	b.fds = nil
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		for _, s := range sockets {
			s.close()
		}
		return Entry{}, fmt.Errorf("publish %v: %w", r, net.ErrClosed)
	}
	if r.astray(&m.cfg.Plan) {
		// Not refused: the contract has it, and a guest that is a router may pass it on.
		m.cfg.Logger.Warn("a published port leads out of the guest's subnet; the guest must forward it", "rule", r, "guest", r.Guest)
	}
	m.last++
	e := Entry{ID: m.last, Rule: r}
	m.rules[e.ID] = published{e, sockets}
	// Clients wait in the listeners' queues until the shard gets to it.
	m.cfg.Shard.Post(shard.TaskFunc(func() {
		for _, s := range sockets {
			if err := s.open(); err != nil {
				m.cfg.Logger.Warn("published port does not work", "rule", r, "error", err)
			}
		}
	}))
	return e, nil
}

// Remove closes the ports of a rule. When it returns no more clients are
// taken; those carried in already stay. ErrNoRule: there is no such rule.
func (m *Manager) Remove(id int) error {
	m.mu.Lock()
	p, ok := m.rules[id]
	if ok {
		delete(m.rules, id)
		m.removing[id] = p
	}
	m.mu.Unlock()
	if !ok {
		return fmt.Errorf("remove published port %d: %w", id, ErrNoRule)
	}
	closed := make(chan struct{})
	if m.cfg.Shard.Post(shard.TaskFunc(func() {
		m.finishRemoval(id)
		close(closed)
	})) {
		select {
		case <-closed:
		case <-m.ended: // Close has done it
		}
	}
	return nil
}

func (m *Manager) finishRemoval(id int) {
	m.mu.Lock()
	p := m.removing[id]
	delete(m.removing, id)
	m.mu.Unlock()
	for _, s := range p.sockets {
		s.close()
	}
	m.endSessions()
}

// List returns the rules in force, oldest first.
func (m *Manager) List() []Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Entry, 0, len(m.rules))
	for _, p := range m.rules {
		list = append(list, p.entry)
	}
	slices.SortFunc(list, func(a, b Entry) int { return a.ID - b.ID })
	return list
}

// Close closes the ports. The shard must have stopped serving; clients are the
// table's to end.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.closed = true
	for _, rules := range []map[int]published{m.rules, m.removing} {
		for _, p := range rules {
			for _, s := range p.sockets {
				s.close()
			}
		}
		clear(rules)
	}
	for _, p := range m.exposed {
		p.close()
	}
	close(m.ended)
}

// decide asks about a client of a published port.
func (m *Manager) decide(proto uint8, client, to netip.AddrPort) policy.Decision {
	return m.cfg.Policy.Decide(policy.Request{
		Guest: m.cfg.Guests.Of(to.Addr()), Direction: policy.In, Origin: flow.FromPublished, Proto: proto, Src: client, Dst: to,
	})
}

// destination is where in the guest a client goes. Where the rule leaves the
// address open, it is the guest's own at this moment.
func (m *Manager) destination(to netip.AddrPort) netip.AddrPort {
	if to.Addr().IsValid() {
		return to
	}
	return netip.AddrPortFrom(m.cfg.Stack.GuestAddr6(), to.Port())
}
