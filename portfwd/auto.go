package portfwd

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockdiag"
)

const (
	// autoInterval is how often servers are looked for, while there is a rule with Auto.
	// The kernel has no event for a socket that begins to listen.
	autoInterval = time.Second
	// autoShare bounds the cost of looking where there are many servers: it takes at most
	// one part in autoShare of a processor's time, and is done less often for that.
	autoShare = 20
	// autoMax bounds the sockets of all rules with Auto together, since any program of the
	// other side can begin to listen.
	autoMax = 4096
	// autoRetry is the pause before a port that we may not bind is tried again. A port in
	// use is tried at each look: its program may end at any moment.
	autoRetry = 10 * time.Second
)

// followable returns an error for a rule with Auto whose servers cannot be asked for.
func (m *Manager) followable(b *Bound) error {
	switch {
	case b.exposed != nil && b.exposed.Auto && (m.cfg.HostPorts == nil || m.cfg.GuestSockets == nil),
		b.exposed == nil && b.rule.Auto && m.cfg.GuestPorts == nil:
		return errors.New("follow servers: the guest's network namespace is not known, or no longer open to us")
	}
	return nil
}

func (p *published) auto() bool {
	return p.exposed != nil && p.exposed.Auto || p.exposed == nil && p.entry.Rule.Auto
}

// startFollowing starts the goroutine that follows servers, if there is none. m.mu is held.
func (m *Manager) startFollowing() {
	if m.following != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	m.following = func() {
		cancel()
		<-done
	}
	go func() {
		defer close(done)
		m.follow(ctx)
	}()
}

// follow looks for servers until ctx ends, or no rule has Auto.
func (m *Manager) follow(ctx context.Context) {
	for {
		begin := time.Now()
		rules := m.rulesToFollow()
		if rules == nil {
			return
		}
		m.look(ctx, rules)
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(autoInterval, autoShare*time.Since(begin))):
		}
	}
}

// rulesToFollow are the rules with Auto; nil: there are none, and the caller ends.
func (m *Manager) rulesToFollow() (rules []*published) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.rules {
		if p.auto() {
			rules = append(rules, p)
		}
	}
	if rules == nil {
		m.following = nil
	}
	return rules
}

// servers are the ports in one namespace that servers listen on, except ours.
type servers map[string]*sockdiag.Ports // by protocol

// look has each rule hold the ports that have a server.
func (m *Manager) look(ctx context.Context, rules []*published) {
	held := m.ourPorts()
	inGuest, err1 := m.servers(rules, false, m.cfg.GuestPorts, held[1], m.wantedInGuest)
	onHost, err2 := m.servers(rules, true, m.cfg.HostPorts, held[0], wantedOnHost)
	if err := errors.Join(err1, err2); err != nil {
		m.cfg.Logger.Debug("servers are not followed", "error", err)
		return // the last state is better than none
	}
	room := autoMax
	for _, p := range rules {
		room -= m.countFollowed(p)
	}
	for _, p := range rules {
		if p.exposed != nil {
			room -= m.adjust(ctx, p, onHost[p.exposed.Proto], room)
		} else {
			room -= m.adjust(ctx, p, inGuest[p.entry.Rule.Proto], room)
		}
	}
}

// wantedInGuest reports whether clients of published ports reach a server at that address.
func (m *Manager) wantedInGuest(a netip.Addr) bool { return m.cfg.LoopbackServers || !a.IsLoopback() }

// wantedOnHost is the same for exposed ports.
func wantedOnHost(a netip.Addr) bool {
	return a.IsUnspecified() || a == loopback4() || a == netip.IPv6Loopback()
}

// ourPorts are the ports that we hold ourselves, on the host and in the guest. Each leads to
// a server of the other side; followed, it would lead back.
func (m *Manager) ourPorts() (held [2]servers) {
	for i := range held {
		held[i] = servers{TCP: new(sockdiag.Ports), UDP: new(sockdiag.Ports)}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.rules {
		side, proto, first, count := 0, p.entry.Rule.Proto, p.entry.Rule.HostPort, p.entry.Rule.Ports()
		if e := p.exposed; e != nil {
			side, proto, first, count = 1, e.Proto, e.GuestPort, e.Ports()
		}
		for at := range p.followed {
			held[side][proto].Add(at.addr.Port())
		}
		for i := range count {
			if !p.auto() {
				held[side][proto].Add(first + uint16(i))
			}
		}
	}
	return held
}

// servers asks for the servers that rules of one direction follow.
func (m *Manager) servers(rules []*published, exposed bool, ask *sockdiag.Socket, ours servers, wanted func(netip.Addr) bool) (servers, error) {
	found := make(servers)
	list := func(proto string, number uint8) error {
		if found[proto] != nil {
			return nil
		}
		found[proto] = new(sockdiag.Ports)
		err := ask.Ports(number, found[proto], wanted)
		found[proto].Subtract(ours[proto])
		return err
	}
	for _, p := range rules {
		if (p.exposed != nil) != exposed {
			continue
		}
		proto := p.entry.Rule.Proto
		if exposed {
			proto = p.exposed.Proto
		}
		if err := list(TCP, unix.IPPROTO_TCP); err != nil {
			return nil, err
		}
		if proto == UDP {
			if err := list(UDP, unix.IPPROTO_UDP); err != nil {
				return nil, err
			}
		}
	}
	if found[UDP] != nil {
		found[UDP].Union(found[TCP]) // programs that use both tell their clients one number
		found[UDP].Subtract(ours[UDP])
	}
	return found, nil
}

func (m *Manager) countFollowed(p *published) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(p.followed)
}

// adjust opens the ports of a rule whose servers have come, as far as there is room, and
// closes those whose servers have gone. It returns how many sockets it has opened.
func (m *Manager) adjust(ctx context.Context, p *published, found *sockdiag.Ports, room int) int {
	wanted := p.wanted(&m.cfg.Plan, found, m.clients)
	var come []place
	now := time.Now()
	m.mu.Lock()
	maps.DeleteFunc(p.retryAt, func(at place, _ time.Time) bool { return !wanted[at] })
	for at := range wanted {
		if p.followed[at] == nil && now.After(p.retryAt[at]) {
			come = append(come, at)
		}
	}
	var gone []place
	for at := range p.followed {
		if !wanted[at] {
			gone = append(gone, at)
		}
	}
	m.mu.Unlock()
	m.unfollow(p, gone)
	if len(come) > room {
		m.cfg.Logger.Debug("too many servers are followed", "rule", p, "most", autoMax)
		m.cfg.Shard.Post(shard.TaskFunc(func() { m.cfg.Table.Meet(flow.LimitFollowed) }))
		come = come[:max(0, room)]
	}
	return m.followAt(ctx, p, come)
}

// wanted are the places of a rule that have a server.
func (p *published) wanted(plan *addressing.Plan, found *sockdiag.Ports, clients portRange) map[place]bool {
	all := make(map[place]bool)
	if found == nil {
		return all
	}
	if e := p.exposed; e != nil {
		for i := range e.Ports() {
			port, server := e.GuestPort+uint16(i), e.HostPort+uint16(i)
			if !found.Has(server) || clients.contains(server) || clients.contains(port) {
				continue
			}
			for _, a := range e.addresses(plan) {
				all[e.place(a, port)] = true
			}
		}
		return all
	}
	r := &p.entry.Rule
	for i := range r.Ports() {
		port, server := r.HostPort+uint16(i), r.GuestPort+uint16(i)
		if found.Has(server) && !clients.contains(server) && !clients.contains(port) {
			all[r.place(port)] = true
		}
	}
	return all
}

// followAt opens the places of a rule that it can, and returns how many.
func (m *Manager) followAt(ctx context.Context, p *published, places []place) (opened int) {
	if len(places) == 0 {
		return 0
	}
	fresh := make(freshSockets)
	defer fresh.close()
	if p.exposed != nil {
		if err := fresh.order(ctx, []Exposed{*p.exposed}, [][]place{places}, m.cfg.GuestSockets); err != nil {
			m.cfg.Logger.Debug("ports are not exposed", "error", err)
			return 0
		}
	}
	enough := descriptorsToSpare()
	var sockets []socket
	for _, at := range places {
		fd, err := -1, error(nil)
		if p.exposed == nil {
			fd, err = at.open(ctx, true)
		} else if fd = fresh.next(at); fd >= 0 {
			if err = at.take(ctx, fd, true); err != nil {
				unix.Close(fd)
			}
		} else {
			err = unix.EAFNOSUPPORT
		}
		if err == nil && fd >= enough {
			unix.Close(fd)
			err = unix.EMFILE
		}
		m.mu.Lock()
		switch {
		case errors.Is(err, unix.EADDRINUSE):
		case err != nil:
			p.retryAt[at] = time.Now().Add(autoRetry)
		case m.closed || m.rules[p.entry.ID] != p:
			unix.Close(fd)
		default:
			s := m.newSocket(p, bound{fd, at.addr.Port()})
			p.followed[at] = s
			delete(p.retryAt, at)
			sockets = append(sockets, s)
		}
		m.mu.Unlock()
	}
	m.cfg.Shard.Post(shard.TaskFunc(func() { m.open(p, sockets) }))
	return len(sockets)
}

// unfollow closes places of a rule.
func (m *Manager) unfollow(p *published, places []place) {
	if len(places) == 0 {
		return
	}
	m.onShard(func() {
		for _, at := range places {
			m.mu.Lock()
			s := p.followed[at]
			delete(p.followed, at)
			m.mu.Unlock()
			if s != nil {
				s.close()
			}
		}
		m.endSessions()
	})
}

// giveWay closes the ports that rules with Auto hold and these rules ask for.
func (m *Manager) giveWay(rules []Rule) {
	ways := make(map[*published][]place)
	m.mu.Lock()
	for _, p := range m.rules {
		for at := range p.followed {
			for i := range rules {
				r := &rules[i]
				port := at.addr.Port()
				if p.exposed == nil && !r.lenient() && port >= r.HostPort && int(port) < int(r.HostPort)+r.Ports() && r.overlaps(&p.entry.Rule) {
					ways[p] = append(ways[p], at)
					break
				}
			}
		}
	}
	m.mu.Unlock()
	for p, places := range ways {
		m.unfollow(p, places)
	}
}
