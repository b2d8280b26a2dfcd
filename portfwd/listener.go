package portfwd

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

const (
	// acceptBatch clients are taken before others get their turn.
	acceptBatch = 64
	// maxAttempts bounds the connects towards the guest that are under way;
	// further clients wait in the listeners' queues.
	maxAttempts = 4096
	// acceptPause is how long listeners rest when the process is out of
	// descriptors or attempts; the kernel would report the waiting clients
	// without end meanwhile.
	acceptPause = 50 * time.Millisecond
	// dialTimeout is what a guest has to answer a client in. Guests are on
	// this machine; one that takes longer is not listening to its network.
	dialTimeout = 10 * time.Second
)

// listener is a published TCP port.
type listener struct {
	m      *Manager
	fd     int
	guest  netip.AddrPort
	watch  *shard.Watch
	paused bool
	avoid  time.Duration // until when the direct path is not tried
}

func (l *listener) open() (err error) {
	if l.fd < 0 { // removed before it began
		return nil
	}
	if l.watch, err = l.m.shard.Watch(l.fd, unix.EPOLLIN, l); err != nil {
		return fmt.Errorf("watch listener: %w", err)
	}
	return nil
}

func (l *listener) close() {
	if l.fd < 0 {
		return
	}
	if l.watch != nil {
		l.watch.Forget()
	}
	unix.Close(l.fd)
	l.fd = -1
}

// Ready implements shard.Handler: clients wait.
func (l *listener) Ready(uint32) {
	for range acceptBatch {
		if len(l.m.attempts) >= maxAttempts {
			l.pause()
			return
		}
		fd, client, errno := sockio.Accept(l.fd)
		switch errno {
		case 0:
			l.m.carry(l, fd, client)
		case unix.ECONNABORTED, unix.EINTR: // that client has gone
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			l.pause()
			return
		default: // EAGAIN
			return
		}
	}
}

// pause stops to listen to the listener for a while.
func (l *listener) pause() {
	if l.paused || l.watch.Modify(0) != nil {
		return
	}
	l.paused = true
	l.m.paused = append(l.m.paused, l)
	if !l.m.shard.Armed(&l.m.retry) {
		l.m.shard.Arm(&l.m.retry, acceptPause, shard.TaskFunc(l.m.resume))
	}
}

func (m *Manager) resume() {
	for _, l := range m.paused {
		l.paused = false
		if l.fd >= 0 {
			l.watch.Modify(unix.EPOLLIN)
		}
	}
	m.paused = m.paused[:0]
}

// attempt is a client that was accepted and waits for the guest.
type attempt struct {
	m       *Manager
	l       *listener
	from    netip.AddrPort // the client, as the guest sees it
	to      netip.AddrPort
	fd      int // -1 once handed to the relay or closed
	watch   *shard.Watch
	events  uint32 // of the client's socket so far
	begun   time.Duration
	direct  direct         // the direct path, tried first
	failed  bool           // the direct path was tried
	dialing *stack.Dialing // the stack path
	timer   shard.Timer
}

// carry begins to carry a client in.
func (m *Manager) carry(l *listener, fd int, client netip.AddrPort) {
	a := &attempt{m: m, l: l, fd: fd, from: m.visible(client), to: m.destination(l.guest), begun: m.shard.Now()}
	a.direct = direct{a: a, fd: -1}
	var err error
	if a.watch, err = m.shard.Watch(fd, clientEvents, a); err != nil {
		relay.SetAbortiveClose(fd)
		unix.Close(fd)
		return
	}
	m.attempts[a] = struct{}{}
	if m.mayGoDirect(l, a.to) {
		a.goDirect()
	} else {
		a.goStack()
	}
}

// goDirect takes the direct path, or the stack path when it cannot be tried.
func (a *attempt) goDirect() {
	m := a.m
	patience := socketPatience
	if m.mode == DirectOnly {
		patience = dialTimeout
	} else if m.starved {
		patience = 0
	}
	started, none := a.direct.begin()
	if waited := m.shard.Now() - a.begun; !none || waited >= socketPatience {
		m.starved = none
	}
	switch {
	case started:
	case none && m.mayGoDirect(a.l, a.to) && m.shard.Now()-a.begun < patience:
		m.shard.Arm(&a.direct.timer, socketPause, &a.direct)
	case m.mode == DirectOnly:
		delete(m.attempts, a)
		a.refuse()
	default:
		a.goStack()
	}
}

// anonymous reports whether the client is seen as the gateway. Then its port is
// kept only if it is free.
func (a *attempt) anonymous() bool { return a.m.plan.IsGateway(a.from.Addr()) }

// goStack takes the stack path.
func (a *attempt) goStack() {
	m := a.m
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

// Ready implements shard.Handler. What the client sends, and that it has gone,
// is for the guest's server to find out: the events are kept for the relay.
func (a *attempt) Ready(events uint32) { a.events |= events }

// answered is called with the guest's answer by the stack path.
func (a *attempt) answered(c *stack.Conn, _ unix.Errno) {
	delete(a.m.attempts, a)
	a.m.shard.Disarm(&a.timer)
	if c == nil {
		a.refuse()
		return
	}
	if a.failed {
		a.l.avoid = a.m.shard.Now() + avoidFor
	}
	fd, watch := a.fd, a.watch
	a.fd, a.watch = -1, nil
	a.m.relay.Start(c, fd, watch, a.events)
}

// refuse resets the client, which is what it would see if it had asked the
// guest itself.
func (a *attempt) refuse() {
	relay.SetAbortiveClose(a.fd)
	a.closeSockets()
}

func (a *attempt) closeSockets() {
	a.direct.close()
	if a.fd >= 0 {
		a.watch.Forget()
		unix.Close(a.fd)
		a.fd = -1
	}
}
