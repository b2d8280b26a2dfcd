package portfwd

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/relay"
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

// clientEvents are what the sockets of a connection are watched for.
const clientEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// direct is the direct path of an attempt: a socket of the guest's namespace
// that is being connected to the server.
type direct struct {
	a      *attempt
	fd     int // -1: none
	watch  *shard.Watch
	events uint32
	timer  shard.Timer
}

// mayGoDirect reports whether the direct path would do for a client.
func (m *Manager) mayGoDirect(l *listener, to netip.AddrPort) bool {
	if m.sockets == nil || m.mode == StackOnly {
		return false
	}
	if m.mode == DirectOnly {
		return true
	}
	// The rule may name an address that is not the guest's own; whether its
	// kernel passes such a connection on, only its device tells.
	own := to.Addr() == m.plan.Guest || to.Addr().Is6() && !l.guest.Addr().IsValid()
	return own && m.sockets.Transparent(familyOf(to.Addr())) && m.shard.Now() >= l.avoid
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
		if errno == 0 {
			sa.Set(d.a.to)
			errno = sockio.Connect(fd, &sa)
		}
		if errno == 0 || errno == unix.EINPROGRESS {
			d.fd = fd
			break
		}
		unix.Close(fd)
		if (errno == unix.EADDRINUSE || errno == unix.EADDRNOTAVAIL) && d.a.anonymous() && from.Port() != 0 {
			// Another client that is seen as the gateway has the port, or had
			// it a moment ago.
			from = netip.AddrPortFrom(from.Addr(), 0)
			continue
		}
		d.a.failed = errno == unix.ECONNREFUSED // see fail
		return false, false
	}
	var err error
	if d.watch, err = m.shard.Watch(d.fd, clientEvents, d); err != nil {
		unix.Close(d.fd)
		d.fd = -1
		return false, false
	}
	patience := directPatience
	if m.mode == DirectOnly {
		patience = dialTimeout
	}
	if sockio.Connected(d.fd) {
		d.join()
		return true, false
	}
	m.shard.Arm(&d.timer, patience, d)
	return true, false
}

// Ready implements shard.Handler: the guest's kernel has answered.
func (d *direct) Ready(events uint32) {
	d.events |= events
	if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		return
	}
	if errno, err := unix.GetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
		d.fail(unix.Errno(errno))
		return
	}
	d.join()
}

// join hands both sockets to the relay.
func (d *direct) join() {
	a := d.a
	a.m.shard.Disarm(&d.timer)
	delete(a.m.attempts, a)
	host := relay.Socket{FD: a.fd, Watch: a.watch, Events: a.events}
	guest := relay.Socket{FD: d.fd, Watch: d.watch, Events: d.events}
	a.fd, a.watch, d.fd, d.watch = -1, nil, -1, nil
	a.m.relay.Join(host, guest, a.to)
}

// Run implements shard.Task for the timer: the time is over, or there may be a
// socket now.
func (d *direct) Run() {
	if d.fd < 0 {
		d.a.goDirect()
		return
	}
	// The answer may be there and we were too busy to hear it.
	if sockio.Connected(d.fd) {
		d.Ready(unix.EPOLLOUT)
		return
	}
	d.fail(unix.ETIMEDOUT)
}

// fail gives the direct path up. That nobody listens is for the stack path to
// say: the guest may pass on what comes by its device.
func (d *direct) fail(errno unix.Errno) {
	a := d.a
	d.close()
	if a.m.mode == DirectOnly {
		delete(a.m.attempts, a)
		a.refuse()
		return
	}
	a.failed = true
	if errno != unix.ECONNREFUSED {
		a.l.avoid = a.m.shard.Now() + avoidFor
	}
	a.goStack()
}

func (d *direct) close() {
	d.a.m.shard.Disarm(&d.timer)
	if d.fd >= 0 {
		d.watch.Forget()
		unix.Close(d.fd)
		d.fd = -1
	}
}
