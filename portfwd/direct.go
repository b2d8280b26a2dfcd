package portfwd

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// Mode says by which path TCP clients are carried in.
type Mode int

const (
	// Auto takes the direct path where the guest's server sees the same
	// address as by the stack path, and the stack path for the rest.
	Auto Mode = iota
	// StackOnly takes the stack path always.
	StackOnly
	// DirectOnly takes the direct path or none. Without transparent sockets,
	// servers see the guest's own address.
	DirectOnly
)

// Sockets hands out TCP sockets that were made in the guest's network
// namespace. It belongs to the shard's thread.
type Sockets interface {
	// Socket calls take with a non-blocking socket of the family, AF_INET or
	// AF_INET6, neither bound nor connected, with TCP_NODELAY and SO_OOBINLINE
	// set: at once if one is in stock, else when one has been made. It is -1
	// when there is none to be had. take reports whether it kept the socket,
	// which otherwise goes back into stock. It may never be called: whoever
	// waits must have a timer.
	Socket(family int, take func(fd int) (kept bool))
	// Transparent reports whether sockets of the family may be bound to any
	// address.
	Transparent(family int) bool
}

const (
	// directPatience is how long a connect within the guest's kernel may take.
	// It takes microseconds; one that is neither accepted nor refused means
	// that the guest sends the connection elsewhere, or that a server does not
	// keep up with its clients.
	directPatience = 100 * time.Millisecond
	// avoidFor is how long clients of a port go by the stack path after the
	// direct path has failed where the stack path did not.
	avoidFor = time.Minute
	// Clients that come faster than sockets are made take the stack path after
	// socketPatience.
	socketPatience = 100 * time.Millisecond
)

// direct is the direct path of an attempt: a socket of the guest's namespace
// that is being connected to the server.
type direct struct {
	connecting
	a       *attempt
	from    netip.AddrPort // the client, seen as the gateway perhaps with a port of our choice
	waiting bool           // for a socket
	wait    shard.Timer    // bounds that
}

func (d *direct) init(a *attempt) {
	d.a = a
	d.connecting = connecting{held: none(), shard: a.m.shard, answered: d.done}
}

// mayGoDirect reports whether the direct path would do for a client.
func (m *Manager) mayGoDirect(p *tcpPort, to netip.AddrPort) bool {
	if m.sockets == nil || m.mode == StackOnly {
		return false
	}
	if m.mode == DirectOnly {
		return true
	}
	// The rule may name an address that is not the guest's own; whether its
	// kernel passes such a connection on, only its device tells.
	own := to.Addr() == m.plan.Guest || to.Addr().Is6() && !p.guest.Addr().IsValid()
	return own && m.sockets.Transparent(familyOf(to.Addr())) && m.shard.Now() >= p.avoid
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// begin asks for a socket to connect to the guest's server, as the client from.
func (d *direct) begin(from netip.AddrPort) {
	m := d.a.m
	d.from, d.waiting = from, true
	m.sockets.Socket(familyOf(d.a.to.Addr()), d.take)
	if d.waiting {
		patience := socketPatience
		if m.mode == DirectOnly {
			patience = dialTimeout
		}
		m.shard.Arm(&d.wait, patience, shard.TaskFunc(func() { d.take(-1) }))
	}
}

// take has a socket, or hears that there is none.
func (d *direct) take(fd int) (kept bool) {
	if !d.waiting {
		return false // it comes too late
	}
	d.waiting = false
	d.shard.Disarm(&d.wait)
	if fd < 0 {
		d.a.notDirect()
		return false
	}
	bound, errno := d.connect(fd)
	if errno == 0 {
		patience := directPatience
		if d.a.m.mode == DirectOnly {
			patience = dialTimeout
		}
		d.a.tried = d.from
		if !d.await(fd, patience) {
			d.a.notDirect()
		}
		return true
	}
	unix.Close(fd)
	taken := errno == unix.EADDRINUSE || errno == unix.EADDRNOTAVAIL
	switch {
	case taken && d.a.anonymous() && d.from.Port() != 0:
		// Another client that is seen as the gateway has the port, or had it a
		// moment ago.
		d.begin(netip.AddrPortFrom(d.from.Addr(), 0))
		return true
	case bound && !taken:
		d.a.tried, d.a.failed = d.from, true // see done
	}
	d.a.notDirect()
	return true
}

// connect begins to connect a socket, which has the client's address if it may.
func (d *direct) connect(fd int) (bound bool, errno unix.Errno) {
	var sa sockio.Addr
	if d.a.m.sockets.Transparent(familyOf(d.a.to.Addr())) {
		sa.Set(d.from)
		if errno := sockio.Bind(fd, &sa); errno != 0 {
			return false, errno
		}
	}
	// What the client has sent follows at once and can say that the
	// handshake is complete: a segment is spared, and the server woken
	// once. It was 8 % more connections
	// (make bench ROWS=published-host-connect-16). With nothing to
	// send, a server that speaks first would wait 40 ms for its client.
	if d.a.client.speaks() {
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
	}
	sa.Set(d.a.to)
	if errno := sockio.Connect(fd, &sa); errno != unix.EINPROGRESS {
		return true, errno
	}
	return true, 0
}

// done has the answer of the guest's kernel.
func (d *direct) done(errno unix.Errno) {
	a := d.a
	m := a.m
	switch {
	case errno == 0:
		delete(m.attempts, a)
		m.relay.Join(a.client.release(), d.release(), a.to, nil)
	case m.mode == DirectOnly:
		delete(m.attempts, a)
		a.refuse()
	default:
		// That nobody listens is for the stack path to say: the guest may pass
		// on what comes by its device.
		d.close()
		a.failed = true
		if errno != unix.ECONNREFUSED {
			a.p.avoid = m.shard.Now() + avoidFor
		}
		a.goStack()
	}
}

func (d *direct) close() {
	d.waiting = false
	d.shard.Disarm(&d.wait)
	d.connecting.close()
}
