package portfwd

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/sockio"
)

// exposedPort is an exposed TCP port at one of its addresses in the guest.
type exposedPort struct {
	listener
	at netip.AddrPort // in the guest
	to netip.AddrPort // on the host; no valid address: its loopback
}

func (m *Manager) newExposedPort(fd int, to netip.AddrPort) *exposedPort {
	p := &exposedPort{listener: listener{m: m, fd: fd}, at: sockio.LocalAddr(fd), to: to}
	p.listener.to = p
	return p
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
	if host := p.to.Addr(); host.IsValid() {
		c.ask(host)
	} else {
		c.ask(loopbackLike(from.Addr()))
	}
}

// ask asks whether the client may reach the port at an address of the host.
func (c *exposedClient) ask(host netip.Addr) {
	cfg := &c.p.m.cfg
	c.decided(cfg.Policy.Decide(policy.Request{
		Guest: c.record.Guest, Direction: policy.Out, Origin: flow.FromExposed, Proto: unix.IPPROTO_TCP,
		Src: c.from, Dst: netip.AddrPortFrom(host, c.p.to.Port()),
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

// dial connects to the host's server. On loopback the kernel often knows the outcome at
// once.
func (c *exposedClient) dial(to netip.AddrPort) {
	c.to, c.record.State = to, flow.Connecting
	fd, err := unix.Socket(familyOf(to.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		if err == unix.EMFILE || err == unix.ENFILE {
			c.p.m.cfg.Table.Meet(flow.LimitDescriptors)
			c.p.pause() // the next ones would not fare better
		}
		c.refuse()
		return
	}
	connect.Prepare(fd)
	c.record.FD = fd
	c.server.Start(fd, to, dialTimeout)
}

// answered gets the answer of the host's kernel.
func (c *exposedClient) answered(errno unix.Errno) {
	switch {
	case errno == 0:
		c.ended = true
		c.p.m.cfg.Relay.Join(c.server.Release(), c.socket.Release(), c.record)
	case errno == unix.ECONNREFUSED && !c.p.to.Addr().IsValid() && c.to.Addr() == loopbackLike(c.from.Addr()) && c.p.m.cfg.Plan.IPv6():
		c.server.Close()
		if c.to.Addr().Is4() {
			c.ask(netip.IPv6Loopback())
		} else {
			c.ask(loopback4())
		}
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
