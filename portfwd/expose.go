package portfwd

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// exposedPort is an exposed port at one of the guest's loopback addresses.
type exposedPort struct {
	listener
	at   netip.AddrPort // in the guest
	host uint16
}

// Expose carries clients of listening sockets, which were made in the guest's
// network namespace, out to a port of the host's loopback, until Close. It takes
// the sockets over, even when it fails, which it does only after Close.
func (m *Manager) Expose(hostPort uint16, listening ...int) error {
	ports := make([]*exposedPort, len(listening))
	for i, fd := range listening {
		p := &exposedPort{listener: listener{m: m, fd: fd}, at: sockio.LocalAddr(fd), host: hostPort}
		p.to = p
		connect.Prepare(fd)
		ports[i] = p
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		for _, p := range ports {
			p.close()
		}
		return fmt.Errorf("expose port %d: %w", hostPort, net.ErrClosed)
	}
	m.exposed = append(m.exposed, ports...)
	m.cfg.Shard.Post(shard.TaskFunc(func() {
		for _, p := range ports {
			if err := p.open(); err != nil {
				m.cfg.Logger.Warn("exposed port does not work", "port", hostPort, "error", err)
			}
		}
	}))
	return nil
}

func (p *exposedPort) full() bool { return !p.m.cfg.Table.Admit(flow.Exposed) }

// exposedClient is a client of the guest that was accepted and waits for the
// host's server.
type exposedClient struct {
	p      *exposedPort
	record *flow.Flow
	from   netip.AddrPort
	socket connect.Socket
	server connect.Attempt
	to     netip.AddrPort
	forget func() // stops waiting for the decision; nil: there was nothing to wait for
	ended  bool
}

// take begins to carry a client out.
func (p *exposedPort) take(fd int, from netip.AddrPort) {
	cfg := &p.m.cfg
	c := &exposedClient{p: p, from: from, socket: connect.Socket{FD: fd}}
	c.server = connect.Attempt{Socket: connect.None(), Shard: cfg.Shard, Done: c.answered}
	c.record = &flow.Flow{
		Owner: c, Guest: cfg.Guests.Of(from.Addr()), Kind: flow.Exposed, Origin: flow.FromExposed, Proto: unix.IPPROTO_TCP,
		Src: from, Remote: p.at, FD: -1,
	}
	cfg.Table.Add(c.record)
	c.ask(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
}

// ask asks whether the client may reach the port at an address of the host's
// loopback.
func (c *exposedClient) ask(loopback netip.Addr) {
	cfg := &c.p.m.cfg
	c.decided(cfg.Policy.Decide(policy.Request{
		Guest: c.record.Guest, Direction: policy.Out, Origin: flow.FromExposed, Proto: unix.IPPROTO_TCP,
		Src: c.from, Dst: netip.AddrPortFrom(loopback, c.p.host),
	}))
}

func (c *exposedClient) decided(d policy.Decision) {
	switch {
	case c.ended:
	case d.Action == policy.Wait:
		c.forget = d.Pending.Then(c.decided)
	case d.Action == policy.Allow:
		c.dial(d.To)
	default:
		c.refuse()
	}
}

// dial connects to the host's loopback. There the kernel often knows the outcome
// at once.
func (c *exposedClient) dial(to netip.AddrPort) {
	c.to, c.record.State = to, flow.Connecting
	fd, err := unix.Socket(familyOf(to.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if err == unix.EMFILE || err == unix.ENFILE {
			c.p.pause() // the next ones would not fare better
		}
		c.refuse()
		return
	}
	connect.Prepare(fd)
	c.record.FD = fd
	c.server.Start(fd, to, dialTimeout)
}

// answered has the answer of the host's kernel.
func (c *exposedClient) answered(errno unix.Errno) {
	switch {
	case errno == 0:
		c.ended = true
		c.p.m.cfg.Relay.Join(c.server.Release(), c.socket.Release(), c.record)
	case errno == unix.ECONNREFUSED && c.to.Addr().Is4() && c.p.m.cfg.Plan.IPv6():
		c.server.Close()
		c.ask(netip.IPv6Loopback())
	default:
		c.refuse()
	}
}

// refuse resets the client. A reset is all that a client of a socket in its own
// kernel can be told.
func (c *exposedClient) refuse() {
	c.p.m.cfg.Table.Remove(c.record)
	c.End(flow.Evicted)
}

// End implements flow.Owner.
func (c *exposedClient) End(flow.Reason) {
	if !c.ended {
		c.ended = true
		if c.forget != nil {
			c.forget()
		}
		c.server.Close()
		c.socket.Reset()
	}
}
