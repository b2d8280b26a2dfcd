package portfwd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/plan"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// Config of a Manager. All but Sockets, Mode and Logger are required.
type Config struct {
	Plan    plan.Plan
	Shard   *shard.Shard
	Relay   *relay.Relay
	Stack   *stack.Stack
	Sockets Sockets // of the guest's namespace; nil: the stack path only
	Mode    Mode
	Logger  *slog.Logger
}

// Manager holds the published ports of one guest. Add, Remove and List may be
// called by any goroutine while the shard serves, or before it does.
type Manager struct {
	plan    plan.Plan
	shard   *shard.Shard
	relay   *relay.Relay
	stack   *stack.Stack
	sockets Sockets
	mode    Mode
	log     *slog.Logger

	// The shard's thread only:
	attempts map[*attempt]struct{}
	paused   []*listener // waiting for descriptors
	retry    shard.Timer
	sessions sessionTable
	starved  bool // a client has waited for a socket in vain, and none came since

	mu       sync.Mutex
	last     int               // the id given last
	rules    map[int]published // in force; guarded by mu
	removing map[int]published // taken back, not yet closed; guarded by mu
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
	m := &Manager{
		plan:     cfg.Plan,
		shard:    cfg.Shard,
		relay:    cfg.Relay,
		stack:    cfg.Stack,
		sockets:  cfg.Sockets,
		mode:     cfg.Mode,
		log:      cfg.Logger,
		attempts: make(map[*attempt]struct{}),
		rules:    make(map[int]published),
		removing: make(map[int]published),
		ended:    make(chan struct{}),
	}
	if m.log == nil {
		m.log = slog.Default()
	}
	m.sessions.init()
	return m
}

// Add publishes the ports of a rule: all of them, or none and an error, which
// is a *FieldError, a *BindError or the context's. A port that was just
// released is tried again for bindPatience.
func (m *Manager) Add(ctx context.Context, r Rule) (Entry, error) {
	if err := m.resolve(&r); err != nil {
		return Entry{}, fmt.Errorf("publish %v: %w", r, err)
	}
	var sockets []socket
	undo := func() {
		for _, s := range sockets {
			s.close()
		}
	}
	for i := range r.Ports() {
		at := netip.AddrPortFrom(r.Host, r.HostPort+uint16(i))
		to := netip.AddrPortFrom(r.Guest, r.GuestPort+uint16(i))
		fd, err := bind(ctx, r.Proto, at)
		if err != nil {
			undo()
			return Entry{}, fmt.Errorf("publish %v: %w", r, err)
		}
		if r.Proto == TCP {
			sockets = append(sockets, &listener{m: m, fd: fd, guest: to})
		} else {
			sockets = append(sockets, &udpSocket{m: m, fd: fd, guest: to, v6: r.Host.Is6()})
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		undo()
		return Entry{}, fmt.Errorf("publish %v: %w", r, net.ErrClosed)
	}
	m.last++
	e := Entry{ID: m.last, Rule: r}
	m.rules[e.ID] = published{e, sockets}
	// Clients wait in the listeners' queues until the shard gets to it.
	m.shard.Post(shard.TaskFunc(func() {
		for _, s := range sockets {
			if err := s.open(); err != nil {
				m.log.Warn("published port does not work", "rule", r, "error", err)
			}
		}
	}))
	return e, nil
}

// resolve checks the rule and fills in what it leaves open.
func (m *Manager) resolve(r *Rule) error {
	if r.Proto == "" {
		r.Proto = TCP
	}
	if r.Interface != "" {
		if r.Host.IsValid() {
			return r.Validate()
		}
		host, err := firstAddress(r.Interface)
		if err != nil {
			return &FieldError{"host_addr", err}
		}
		r.Host, r.Interface = host, ""
	}
	if err := r.Validate(); err != nil {
		return err
	}
	r.Host, r.GuestPort = r.host(), r.guestPort()
	if r.Host.Is6() && !m.plan.IPv6() {
		return badField("host_addr", "%v is an IPv6 address, and IPv6 is not enabled", r.Host)
	}
	if !r.Guest.IsValid() && r.Host.Is4() {
		r.Guest = m.plan.Guest
	}
	return nil
}

// firstAddress is the first address of an interface, IPv4 before IPv6.
func firstAddress(name string) (netip.Addr, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("interface %s: %w", name, errors.Unwrap(err))
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses of %s: %w", name, err)
	}
	var found []netip.Addr
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			found = append(found, p.Addr())
		}
	}
	if len(found) == 0 {
		return netip.Addr{}, fmt.Errorf("interface %s has no address", name)
	}
	if i := slices.IndexFunc(found, netip.Addr.Is4); i >= 0 {
		return found[i], nil
	}
	return found[0], nil
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
	if m.shard.Post(shard.TaskFunc(func() {
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

// Close closes every socket of the manager. The shard must have stopped
// serving.
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
	for a := range m.attempts {
		a.closeSockets()
	}
	clear(m.attempts)
	close(m.ended)
}

// bindPatience is how long a busy port is tried again: a predecessor that was
// told to go needs some milliseconds, under load up to a second.
const (
	bindPatience = 2 * time.Second
	bindPause    = 20 * time.Millisecond
)

// backlog is the number of clients that may wait to be accepted; the kernel
// cuts it to net.core.somaxconn, which is 4096 since Linux 5.4.
const backlog = 4096

// bind opens, binds and, for TCP, listens.
func bind(ctx context.Context, proto string, at netip.AddrPort) (int, error) {
	deadline := time.Now().Add(bindPatience)
	for {
		fd, errno := tryBind(proto, at)
		if errno == 0 {
			return fd, nil
		}
		if errno != unix.EADDRINUSE || time.Now().After(deadline) {
			return -1, bindError(proto, at, errno)
		}
		select {
		case <-ctx.Done():
			return -1, errors.Join(ctx.Err(), bindError(proto, at, errno))
		case <-time.After(bindPause):
		}
	}
}

func tryBind(proto string, at netip.AddrPort) (int, unix.Errno) {
	family, typ := unix.AF_INET, unix.SOCK_STREAM
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	var sa sockio.Addr
	sa.Set(at)
	if proto == UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err.(unix.Errno)
	}
	fail := func(err error) (int, unix.Errno) {
		unix.Close(fd)
		return -1, err.(unix.Errno)
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return fail(err)
		}
	}
	if proto == UDP {
		// As much as the kernel grants: a burst is taken batch by batch.
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		if err := askDestination(fd, family); err != nil {
			return fail(err)
		}
		if errno := sockio.Bind(fd, &sa); errno != 0 {
			return fail(errno)
		}
		return fd, 0
	}
	// A port whose last connections are in TIME-WAIT is free to listen on.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fail(err)
	}
	if errno := sockio.Bind(fd, &sa); errno != 0 {
		return fail(errno)
	}
	relay.Prepare(fd)
	if err := unix.Listen(fd, backlog); err != nil {
		return fail(err)
	}
	return fd, 0
}

// visible is the address under which the guest sees a client, by which its
// answers have to find the way back to us. That is the client's own, except
// where the guest would not send answers to the TAP: loopback and link-local
// addresses, and those of the guest's own subnet or of the guest itself. Such
// clients are the gateway.
func (m *Manager) visible(client netip.AddrPort) netip.AddrPort {
	a := client.Addr()
	p := &m.plan
	if !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() &&
		!p.Prefix.Contains(a) && !(p.IPv6() && p.Prefix6.Contains(a)) {
		return client
	}
	if a.Is4() {
		return netip.AddrPortFrom(p.Gateway, client.Port())
	}
	return netip.AddrPortFrom(p.Gateway6, client.Port())
}

// destination is where in the guest a client goes; an address that the rule
// left open is the guest's own of now.
func (m *Manager) destination(to netip.AddrPort) netip.AddrPort {
	if to.Addr().IsValid() {
		return to
	}
	return netip.AddrPortFrom(m.stack.GuestAddr6(), to.Port())
}
