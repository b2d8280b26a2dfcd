package portfwd

import (
	"cmp"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
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

// Sockets hands out sockets that were made in a guest's network namespace.
// Its methods are called on the shard's thread.
type Sockets interface {
	// Socket calls take with a non-blocking socket of the family, AF_INET or
	// AF_INET6, neither bound nor connected, with TCP_NODELAY and SO_OOBINLINE
	// set: at once if one is in stock, else when there is one. fd is -1 if none is
	// available. take reports whether it has kept the socket.
	Socket(family int, take func(fd int) (kept bool))
	// Datagrams does so with a UDP socket, on which nothing is set.
	Datagrams(family int, take func(fd int) (kept bool))
	// Transparent reports whether sockets of the family may be bound to any
	// address.
	Transparent(family int) bool
}

const (
	// directPatience is how long a connect within the guest's kernel may take,
	// and the wait for a socket before it. They take microseconds; a connect that
	// is neither accepted nor refused means that the guest sends the connection
	// elsewhere, or that a server does not keep up with its clients.
	directPatience = 100 * time.Millisecond
	// avoidFor is how long clients of a port go by the stack path after the
	// direct path has failed where the stack path did not.
	avoidFor = time.Minute
)

// direct is the direct path of a client: a socket of the guest's namespace that is
// being connected to the server.
type direct struct {
	connect.Attempt
	sockets Sockets        // of the guest that has the server
	from    netip.AddrPort // what it is bound to, unless that is the guest's own
	to      netip.AddrPort // the server
	waiting bool           // for a socket
	tried   netip.AddrPort // from, once tried; a valid port: the guest may have seen a SYN
	failed  bool           // the guest's kernel has refused, or was silent
	errno   unix.Errno     // of the last attempt
}

// findSockets finds the sockets with which the client could take the direct path.
func (c *client) findSockets() {
	cfg := &c.m.cfg
	if cfg.Sockets != nil && cfg.Mode != StackOnly {
		// The rule may name an address that no guest has itself; only the stack path
		// can tell whether a guest forwards such a connection.
		c.direct.sockets = cfg.Sockets(c.to.Addr())
	}
}

// mayGoDirect reports whether the direct path would do for a client.
func (c *client) mayGoDirect() bool {
	cfg := &c.m.cfg
	switch {
	case c.direct.sockets == nil:
		return false
	case cfg.Mode == DirectOnly, c.inside:
		return true
	}
	return c.direct.sockets.Transparent(familyOf(c.to.Addr())) && cfg.Shard.Now() >= c.p.avoid
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (c *client) directPatience() time.Duration {
	if c.m.cfg.Mode == DirectOnly {
		return dialTimeout
	}
	return directPatience
}

// goDirect takes the direct path.
func (c *client) goDirect() {
	c.direct.waiting = true
	c.direct.sockets.Socket(familyOf(c.direct.to.Addr()), c.takeSocket)
	if c.direct.waiting {
		c.m.cfg.Shard.Arm(&c.timer, c.directPatience(), c)
	}
}

// takeSocket connects a socket of the guest's namespace to the server.
func (c *client) takeSocket(fd int) (kept bool) {
	d := &c.direct
	if c.ended || !d.waiting {
		return false
	}
	d.waiting = false
	c.m.cfg.Shard.Disarm(&c.timer)
	if fd < 0 {
		c.directImpossible()
		return false
	}
	if d.Bound = d.sockets.Transparent(familyOf(d.to.Addr())); d.Bound {
		var errno unix.Errno
		if d.Bound = !c.inside; d.Bound {
			var sa sockio.Addr
			sa.Set(d.from)
			errno = sockio.Bind(fd, &sa)
		} else {
			errno = makeOrdinary(fd)
		}
		if errno != 0 {
			unix.Close(fd)
			c.directDone(errno)
			return true
		}
	}
	// What the client has sent follows at once and can say that the handshake is
	// complete: a segment is spared, and the server woken once. It was 8 % more
	// connections (make bench ROWS=published-host-connect-16). With nothing to
	// send, a server that speaks first would wait 40 ms for its client.
	if c.hasSent() {
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
	}
	if !c.inside {
		d.tried = d.from
	}
	d.Start(fd, d.to, c.directPatience())
	return true
}

// makeOrdinary undoes what leads answers to foreign addresses back to a transparent socket.
// What is sent to an address of the guest's own arrives by the interface that has it, not
// by lo; and the guest's own address translation is to treat it like any other packet.
// It needs CAP_NET_RAW in the guest's user namespace, which its owner has.
func makeOrdinary(fd int) unix.Errno {
	for _, option := range [...]int{unix.SO_BINDTOIFINDEX, unix.SO_MARK} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 0); err != nil {
			return err.(unix.Errno)
		}
	}
	return 0
}

// hasSent reports whether the client has sent something, and notes it for the
// relay.
func (c *client) hasSent() bool {
	n, err := unix.IoctlGetInt(c.socket.FD, unix.SIOCINQ)
	if err != nil || n == 0 {
		return false
	}
	c.socket.Events |= unix.EPOLLIN
	return true
}

// directDone gets the answer of the guest's kernel.
func (c *client) directDone(errno unix.Errno) {
	d := &c.direct
	d.errno = errno
	switch errno {
	case 0:
		if !d.Bound || d.from.Port() == 0 {
			c.record.Remote = sockio.LocalAddr(d.FD)
		}
		c.ended = true
		c.m.cfg.Relay.Join(c.socket.Release(), d.Release(), c.record)
		return
	case unix.EADDRINUSE, unix.EADDRNOTAVAIL:
		d.Close()
		d.tried = netip.AddrPort{}
		if c.anonymous() && d.from.Port() != 0 {
			// Another client that is seen as the gateway has the port, or had it
			// a moment ago.
			d.from = netip.AddrPortFrom(d.from.Addr(), 0)
			c.goDirect()
			return
		}
	case unix.ETIMEDOUT:
		c.p.avoid = c.m.cfg.Shard.Now() + avoidFor
		d.failed = true
	default:
		// Only the stack path can tell that nobody listens: the guest may forward
		// what comes by its device.
		d.failed = true
	}
	d.Close()
	c.directImpossible()
}

// noSocket is called when no socket has come for too long.
func (c *client) noSocket() {
	c.direct.waiting = false
	c.m.cfg.Table.Meet(flow.LimitStock)
	c.p.avoid = c.m.cfg.Shard.Now() + avoidFor
	c.directImpossible()
}

// directImpossible continues when the direct path has not led to the server.
func (c *client) directImpossible() {
	if c.m.cfg.Mode == DirectOnly {
		c.fail(cmp.Or(c.direct.errno, unix.ETIMEDOUT))
		return
	}
	c.goStack()
}
