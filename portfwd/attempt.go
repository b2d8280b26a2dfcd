package portfwd

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/stack"
)

// maxAttempts bounds the connects towards the guest that are under way; further
// clients wait in the listeners' queues.
const maxAttempts = 4096

// tcpPort is a published TCP port.
type tcpPort struct {
	listener
	guest netip.AddrPort
	avoid time.Duration // until when the direct path is not tried
}

func (m *Manager) newTCPPort(fd int, guest netip.AddrPort) *tcpPort {
	p := &tcpPort{listener: listener{m: m, fd: fd}, guest: guest}
	p.to = p
	return p
}

func (p *tcpPort) full() bool { return len(p.m.attempts) >= maxAttempts }

// attempt is a client that was accepted and waits for the guest.
type attempt struct {
	m       *Manager
	p       *tcpPort
	from    netip.AddrPort // the client, as the guest sees it
	to      netip.AddrPort
	client  accepted
	direct  direct         // the direct path, tried first
	failed  bool           // the direct path was tried
	tried   netip.AddrPort // from there, when it was
	dialing *stack.Dialing // the stack path
	timer   shard.Timer
}

// take begins to carry a client in.
func (p *tcpPort) take(fd int, client netip.AddrPort) {
	m := p.m
	a := &attempt{m: m, p: p, from: m.visible(client), to: m.destination(p.guest)}
	a.direct.init(a)
	a.client.hold(fd)
	m.attempts[a] = struct{}{}
	if m.mayGoDirect(p, a.to) {
		a.direct.begin(a.from)
	} else {
		a.goStack()
	}
}

// notDirect goes on when the direct path cannot be tried.
func (a *attempt) notDirect() {
	if a.m.mode == DirectOnly {
		delete(a.m.attempts, a)
		a.refuse()
		return
	}
	a.goStack()
}

// anonymous reports whether the client is seen as the gateway. Then its port is
// kept only if it is free.
func (a *attempt) anonymous() bool { return a.m.plan.IsGateway(a.from.Addr()) }

// goStack takes the stack path.
func (a *attempt) goStack() {
	m := a.m
	if a.tried.Port() != 0 {
		// The guest may have passed that attempt on by address translation and
		// remember it. A SYN of the same address and port, but another sequence
		// number, would be taken for a part of it.
		m.stack.SendAbort(a.tried, a.to)
	}
	var errno unix.Errno
	a.dialing, errno = m.stack.Dial(a.from, a.to, a.answered)
	if errno == unix.EADDRINUSE {
		// Two clients that are both seen as the gateway have the same port.
		a.dialing, errno = m.stack.Dial(netip.AddrPortFrom(a.from.Addr(), 0), a.to, a.answered)
	}
	if errno != 0 {
		delete(m.attempts, a)
		a.refuse()
		return
	}
	m.shard.Arm(&a.timer, dialTimeout, a)
}

// Run implements shard.Task for the timer.
func (a *attempt) Run() { a.dialing.Abort() }

// answered is called with the guest's answer by the stack path.
func (a *attempt) answered(c *stack.Conn, _ unix.Errno) {
	delete(a.m.attempts, a)
	a.m.shard.Disarm(&a.timer)
	if c == nil {
		a.refuse()
		return
	}
	if a.failed {
		a.p.avoid = a.m.shard.Now() + avoidFor
	}
	a.m.relay.Start(c, a.client.release().FD, nil, 0)
}

func (a *attempt) refuse() {
	a.direct.close()
	a.client.refuse()
}

func (a *attempt) closeSockets() {
	a.direct.close()
	a.client.close()
}
