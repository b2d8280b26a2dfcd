package portfwd

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"epiphyte/internal/addressing"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockdiag"
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
	// Sockets returns those of the guest that has the address itself, made in its network
	// namespace. It is called on the shard's thread, for each TCP client; nil, or a nil
	// result: the stack path only.
	Sockets func(netip.Addr) Sockets
	Mode    Mode
	Logger  *slog.Logger // the default is slog's
	// Claims is told of the clients of UDP ports; nil where there is one worker.
	Claims stack.Claims
	// GuestSockets makes the sockets of ports that are exposed while the shard serves; it
	// may need the shard. nil: Change exposes none.
	GuestSockets GuestSockets
	// HostPorts and GuestPorts list the servers of either side, for rules with Auto, which
	// are refused without them. The Manager closes them.
	HostPorts, GuestPorts *sockdiag.Socket
	// LoopbackServers has Auto publish the ports of servers that listen on the guest's
	// loopback alone, too; for configurations in which clients reach those.
	LoopbackServers bool
}

// Manager holds the published ports of one guest, and the exposed ones. Add, Remove, Change
// and List may be called by any goroutine while the shard serves, or before it does.
type Manager struct {
	cfg     Config
	hints   *rate.Limiter // of the log; the shard's thread only
	clients portRange     // of the host's kernel, asked once: the program may be confined later

	// The shard's thread only:
	paused  []*listener // waiting for descriptors
	retry   shard.Timer
	backlog policy.Backlog
	passing sockio.Batch // sends what the Config's has received
	waiting int          // bytes that wait for sockets: see wait

	changing sync.Mutex // held while rules change, so that no change sees half of another

	mu       sync.Mutex
	last     int                // the id given last
	rules    map[int]*published // in force; guarded by mu
	removing []*published       // removed, not yet closed; guarded by mu
	closed   bool
	ended    chan struct{} // closed by Close

	following func() // ends the goroutine that follows servers; nil: there is none; guarded by mu
}

// published is a rule in force with its sockets.
type published struct {
	entry   Entry
	exposed *Exposed // the rule, if it exposes ports; else nil
	sockets []socket

	// Of Auto, guarded by the Manager's mu while the rule is in force:
	followed map[place]socket
	retryAt  map[place]time.Time // of places that we may not have
}

// socket is a bound port: a listener or a UDP socket.
type socket interface {
	open() error     // start to serve, on the shard's thread
	close()          // stop, on the shard's thread or when the shard has stopped
	descriptor() int // -1: closed
}

// New makes a manager without rules.
func New(cfg Config) *Manager {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Manager{cfg: cfg, hints: rate.NewLimiter(hintRate, hintBurst), clients: ephemeralPorts(), rules: make(map[int]*published), ended: make(chan struct{})}
}

// Serve begins to accept clients of ports that are bound. It takes over the ports even
// when it fails: after Close, or for a rule with Auto whose servers cannot be asked for.
func (m *Manager) Serve(b *Bound) (Entry, error) {
	all, err := m.serve([]*Bound{b})
	if err != nil {
		return Entry{}, err
	}
	return all[0], nil
}

// serve is Serve of all at once.
func (m *Manager) serve(list []*Bound) ([]Entry, error) {
	for _, b := range list {
		if err := m.followable(b); err != nil {
			closeAll(list)
			return nil, err
		}
	}
	m.warnAstray(list)
	rules := make([]*published, len(list))
	for i, b := range list {
		rules[i] = m.publish(b)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		for _, p := range rules {
			p.close()
		}
		return nil, fmt.Errorf("publish ports: %w", net.ErrClosed)
	}
	entries := make([]Entry, len(rules))
	for i, p := range rules {
		m.last++
		p.entry.ID = m.last
		m.rules[m.last] = p
		entries[i] = p.entry
		if p.auto() {
			p.followed, p.retryAt = make(map[place]socket), make(map[place]time.Time)
			m.startFollowing()
		}
	}
	// Clients wait in the listeners' queues until the shard gets to it.
	m.cfg.Shard.Post(shard.TaskFunc(func() {
		for _, p := range rules {
			m.open(p, p.sockets)
		}
	}))
	return entries, nil
}

// publish takes over a rule's sockets and makes what serves them.
func (m *Manager) publish(b *Bound) *published {
	p := &published{entry: Entry{Rule: b.rule}, exposed: b.exposed, sockets: make([]socket, len(b.sockets))}
	for i, s := range b.sockets {
		p.sockets[i] = m.newSocket(p, s)
	}
	b.sockets = nil
	if b.leftOut != nil {
		m.cfg.Logger.Info("some ports are left out", "rule", p, "error", b.leftOut)
	}
	return p
}

// warnAstray warns once per change that a port leads where the guest has to forward. It is
// not refused: the contract allows it, and the guest may be a router.
func (m *Manager) warnAstray(list []*Bound) {
	i := slices.IndexFunc(list, func(b *Bound) bool { return b.exposed == nil && b.rule.astray(&m.cfg.Plan) })
	if i >= 0 {
		r := list[i].rule
		m.cfg.Logger.Warn("a published port leads out of the guest's subnet; the guest must forward it", "rule", r, "guest", r.Guest)
	}
}

// newSocket is what serves one port of a rule.
func (m *Manager) newSocket(p *published, s bound) socket {
	if e := p.exposed; e != nil {
		to := netip.AddrPortFrom(e.Host, e.HostPort+s.port-e.GuestPort)
		if e.Proto == TCP {
			return m.newExposedPort(s.fd, to)
		}
		return m.newExposedUDP(s.fd, to)
	}
	r := &p.entry.Rule
	to := netip.AddrPortFrom(r.Guest, r.GuestPort+s.port-r.HostPort)
	if r.Proto == TCP {
		return m.newTCPPort(s.fd, to)
	}
	return m.newUDPPort(s.fd, to)
}

// open begins to serve ports of a rule, on the shard's thread.
func (m *Manager) open(p *published, list []socket) {
	for _, s := range list {
		if err := s.open(); err != nil {
			m.cfg.Logger.Warn("a port does not work", "rule", p, "error", err)
		}
	}
}

func (p *published) close() {
	for _, s := range p.sockets {
		s.close()
	}
	for _, s := range p.followed {
		s.close()
	}
}

// String is the rule, for people.
func (p *published) String() string {
	if p.exposed != nil {
		return p.exposed.String()
	}
	return p.entry.Rule.String()
}

// retire closes the ports of rules. When it returns no more clients are accepted.
func (m *Manager) retire(rules map[*published]bool) {
	if len(rules) == 0 {
		return
	}
	m.mu.Lock()
	for p := range rules {
		delete(m.rules, p.entry.ID)
		m.removing = append(m.removing, p)
	}
	m.mu.Unlock()
	m.onShard(func() {
		m.mu.Lock()
		m.removing = slices.DeleteFunc(m.removing, func(p *published) bool { return rules[p] })
		m.mu.Unlock()
		for p := range rules {
			p.close()
		}
		m.endSessions()
	})
}

// onShard runs f on the shard's thread and waits for it, unless Close comes first.
func (m *Manager) onShard(f func()) {
	done := make(chan struct{})
	if m.cfg.Shard.Post(shard.TaskFunc(func() {
		f()
		close(done)
	})) {
		select {
		case <-done:
		case <-m.ended: // Close does it
		}
	}
}

// List returns the published rules in force, oldest first.
func (m *Manager) List() (list []Entry) {
	for _, p := range m.inForce() {
		if p.exposed == nil {
			list = append(list, p.entry)
		}
	}
	return list
}

// ListExposed returns the exposed ports in force, oldest first.
func (m *Manager) ListExposed() (list []Exposed) {
	for _, p := range m.inForce() {
		if p.exposed != nil {
			list = append(list, *p.exposed)
		}
	}
	return list
}

// inForce is all rules, oldest first.
func (m *Manager) inForce() []*published {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := slices.Collect(maps.Values(m.rules))
	slices.SortFunc(list, func(a, b *published) int { return a.entry.ID - b.entry.ID })
	return list
}

// Close closes the ports. The shard must have stopped serving; the table ends the
// clients.
func (m *Manager) Close() {
	m.mu.Lock()
	closed, following := m.closed, m.following
	m.closed = true
	m.mu.Unlock()
	if closed {
		return
	}
	close(m.ended)
	if following != nil {
		following()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.rules {
		p.close()
	}
	for _, p := range m.removing {
		p.close()
	}
	clear(m.rules)
	m.removing = nil
	for _, s := range [...]*sockdiag.Socket{m.cfg.HostPorts, m.cfg.GuestPorts} {
		if s != nil {
			s.Close()
		}
	}
}

// decide asks about a client of a published port, and whether it is to be connected within
// the guest's kernel.
func (m *Manager) decide(proto uint8, client, to netip.AddrPort, direct bool) policy.Decision {
	return m.cfg.Policy.Decide(policy.Request{
		Guest: m.cfg.Guests.Of(to.Addr()), Direction: policy.In, Origin: flow.FromPublished, Proto: proto, Src: client, Dst: to, Direct: direct,
	})
}

// destination is where in the guest a client goes. If the rule leaves the address
// open, it is the guest's current one, of the client's family.
func (m *Manager) destination(to netip.AddrPort, client netip.Addr) netip.AddrPort {
	switch {
	case to.Addr().IsValid():
		return to
	case client.Is4() && m.cfg.Plan.IPv4() || !m.cfg.Plan.IPv6():
		return netip.AddrPortFrom(m.cfg.Stack.GuestAddr4(), to.Port())
	}
	return netip.AddrPortFrom(m.cfg.Stack.GuestAddr6(), to.Port())
}
