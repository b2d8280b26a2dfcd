package portfwd

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
	"epiphyte/stack"
)

// dialTimeout is how long a server may take to answer a client. It is on this
// machine; one that takes longer is not listening to its network.
const dialTimeout = 10 * time.Second

// tcpPort is a published TCP port.
type tcpPort struct {
	listener
	guest netip.AddrPort
	avoid time.Duration // the direct path is not tried before

	hinted time.Duration // no hint is due before
}

func (m *Manager) newTCPPort(fd int, guest netip.AddrPort) *tcpPort {
	p := &tcpPort{listener: listener{m: m, fd: fd}, guest: guest}
	p.to = p
	return p
}

func (p *tcpPort) full() bool { return !p.m.cfg.Table.Admit(flow.Client) }

// client is an inbound connection: a client that was accepted and waits for the
// guest's server. Its socket is not watched before the relay has it: the server
// finds out what it has sent, and whether it has gone.
type client struct {
	m         *Manager
	p         *tcpPort
	record    *flow.Flow
	peer      netip.AddrPort // the client
	from      netip.AddrPort // the same, as the guest sees it
	to        netip.AddrPort // the server
	inside    bool           // from is the guest's own: see policy.Decision
	socket    connect.Socket
	direct    direct           // the path tried first
	handshake *stack.Handshake // the stack path
	forget    func()           // stops waiting for the decision; nil: there was nothing to wait for
	timer     shard.Timer      // of the stack path, or while there is no socket for the direct one
	ended     bool
}

// take begins to carry a client in.
func (p *tcpPort) take(fd int, peer netip.AddrPort) {
	m := p.m
	c := &client{m: m, p: p, to: m.destination(p.guest, peer.Addr()), peer: peer, socket: connect.Socket{FD: fd}}
	c.direct.Attempt = connect.Attempt{Socket: connect.None(), Shard: m.cfg.Shard, Done: c.directDone}
	c.record = &flow.Flow{
		Owner: c, Guest: m.cfg.Guests.Of(c.to.Addr()), Kind: flow.Client, Origin: flow.FromPublished, Proto: unix.IPPROTO_TCP,
		Src: c.to, Remote: peer, FD: fd,
	}
	m.cfg.Table.Add(c.record)
	c.findSockets()
	c.ask()
}

// ask asks whether the client may reach the server, by the next path.
func (c *client) ask() {
	c.decided(c.m.decide(unix.IPPROTO_TCP, c.peer, c.to, c.direct.sockets != nil))
}

func (c *client) decided(d policy.Decision) {
	switch {
	case c.ended:
	case d.Action == policy.Wait:
		c.forget = d.Pending.Then(c.decided)
	case d.Action != policy.Allow:
		c.refuse()
	default:
		c.direct.to, c.direct.from, c.inside = d.To, d.From, d.Inside
		if !c.inside {
			c.from = d.From
			if c.to != d.To {
				c.to = d.To
				c.findSockets()
			}
		}
		c.record.Remote, c.record.State = d.From, flow.Connecting
		if d.Watch != nil && c.record.Ended == nil { // only for the first path
			d.Watch.Flow(c.record, d.To)
		}
		if c.mayGoDirect() {
			c.goDirect()
		} else {
			c.goStack()
		}
	}
}

// anonymous reports whether the client is seen as the gateway, or as another of our
// addresses. Then it keeps its port only if that is free.
func (c *client) anonymous() bool { return c.m.cfg.Plan.Holds(c.from.Addr()) }

// goStack takes the stack path.
func (c *client) goStack() {
	m := c.m
	if c.inside {
		// By the device the client has another address, and the attempt is no evidence
		// against the direct path.
		c.inside, c.direct.sockets, c.direct.failed = false, nil, false
		c.ask()
		return
	}
	if c.direct.tried.Port() != 0 {
		// The guest may have passed that attempt on by address translation and
		// remember it. A SYN of the same address and port, but another sequence
		// number, would be taken for a part of it.
		m.cfg.Stack.SendAbort(c.direct.tried, c.to)
	}
	var errno unix.Errno
	c.handshake, errno = m.cfg.Stack.Dial(c.from, c.to, c.answered)
	if errno == unix.EADDRINUSE {
		// Two clients that are both seen as the gateway have the same port.
		c.handshake, errno = m.cfg.Stack.Dial(netip.AddrPortFrom(c.from.Addr(), 0), c.to, c.answered)
	}
	if errno != 0 {
		c.fail(errno)
		return
	}
	m.cfg.Shard.Arm(&c.timer, dialTimeout, c)
}

// Run implements shard.Task for the timer.
func (c *client) Run() {
	if c.handshake != nil {
		c.handshake.Abort()
		return
	}
	c.noSocket()
}

// answered is called with the guest's answer by the stack path.
func (c *client) answered(conn *stack.Conn, errno unix.Errno) {
	if conn == nil {
		c.fail(errno)
		return
	}
	if c.direct.failed {
		c.p.avoid = c.m.cfg.Shard.Now() + avoidFor
	}
	c.record.Remote = conn.LocalAddr()
	c.m.cfg.Shard.Disarm(&c.timer)
	c.ended = true
	c.m.cfg.Relay.Start(conn, c.socket.Release(), c.record)
}

// fail resets a client whose server could not be reached.
func (c *client) fail(errno unix.Errno) {
	if errno == unix.ECONNABORTED { // by our own patience
		errno = unix.ETIMEDOUT
	}
	c.m.cfg.Table.ClientFailed(errno)
	c.record.Errno = errno
	if errno == unix.ECONNREFUSED {
		c.p.hint()
	}
	c.refuse()
}

// Bounds of hints in the log: of one port, and of all.
const (
	hintPause = time.Minute
	hintRate  = rate.Limit(0.2) // a second
	hintBurst = 20
)

// hint logs the most common reason why the guest refuses clients, at most once a hintPause
// for each port.
func (p *tcpPort) hint() {
	now := p.m.cfg.Shard.Now()
	if now < p.hinted || !p.m.hints.AllowN(time.Time{}.Add(now), 1) {
		return
	}
	p.hinted = now + hintPause
	p.m.cfg.Logger.Info("the server in the guest refused a client; if it listens on 127.0.0.1 only, have it listen on 0.0.0.0", "port", p.guest.Port())
}

// refuse resets the client, which is what it would see if it had asked the
// server itself.
func (c *client) refuse() {
	c.m.cfg.Table.Remove(c.record)
	c.End(flow.Evicted)
}

// End implements flow.Owner.
func (c *client) End(why flow.Reason) {
	if c.ended {
		return
	}
	c.ended = true
	if c.handshake != nil && why != flow.Closing { // else the stack closes it
		c.handshake.Abort() // the guest that has the address next must not answer
	}
	if c.forget != nil {
		c.forget()
	}
	c.m.cfg.Shard.Disarm(&c.timer)
	c.direct.Close()
	if why == flow.Closing {
		c.socket.Close()
	} else {
		c.socket.Reset()
	}
}
