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
// namespace.
type Sockets interface {
	// Socket returns a non-blocking socket of the family, AF_INET or AF_INET6,
	// neither bound nor connected, with TCP_NODELAY and SO_OOBINLINE set. It
	// does not wait; false: there is none.
	Socket(family int) (fd int, ok bool)
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
	// Clients that come faster than sockets are made look for one again after
	// socketPause, and take the stack path after socketPatience.
	socketPause    = time.Millisecond
	socketPatience = 100 * time.Millisecond
)

// direct is the direct path of an attempt: a socket of the guest's namespace
// that is being connected to the server.
type direct struct {
	connecting
	a     *attempt
	retry shard.Timer // there may be a socket then
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

// begin connects a socket to the guest's server, or says that there is none to
// do so with.
func (d *direct) begin() (started, none bool) {
	m := d.a.m
	family := familyOf(d.a.to.Addr())
	from := d.a.from
	for {
		fd, ok := m.sockets.Socket(family)
		if !ok {
			return false, true
		}
		errno := unix.Errno(0)
		var sa sockio.Addr
		if m.sockets.Transparent(family) {
			sa.Set(from)
			errno = sockio.Bind(fd, &sa)
		}
		bound := errno == 0
		if bound {
			// What the client has sent follows at once and can say that the
			// handshake is complete: a segment is spared, and the server woken
			// once. It was 8 % more connections
			// (make bench ROWS=published-host-connect-16). With nothing to
			// send, a server that speaks first would wait 40 ms for its client.
			if d.a.client.speaks() {
				unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
			}
			sa.Set(d.a.to)
			errno = sockio.Connect(fd, &sa)
		}
		if errno == 0 || errno == unix.EINPROGRESS {
			patience := directPatience
			if m.mode == DirectOnly {
				patience = dialTimeout
			}
			d.a.tried = from
			return d.await(fd, patience), false
		}
		unix.Close(fd)
		taken := errno == unix.EADDRINUSE || errno == unix.EADDRNOTAVAIL
		if taken && d.a.anonymous() && from.Port() != 0 {
			// Another client that is seen as the gateway has the port, or had
			// it a moment ago.
			from = netip.AddrPortFrom(from.Addr(), 0)
			continue
		}
		if bound && !taken {
			d.a.tried, d.a.failed = from, true // see done
		}
		return false, false
	}
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
	d.shard.Disarm(&d.retry)
	d.connecting.close()
}
