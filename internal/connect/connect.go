// Package connect makes connections with TCP sockets of the host, or of the
// guest's network namespace, on a shard.
//
// # Theory of operation
//
// An Attempt is a socket whose connect(2) is under way. Start begins it, and Done is
// called once with the outcome: at once where the kernel knows it already, as it
// often does for servers on the same machine, else on an event of the shard or when
// the patience ends. On an error the caller closes the Attempt; else it releases the
// Socket to the code that moves its bytes.
//
// Invariants: a Socket is closed exactly once, by its holder; after Close or Reset,
// Done is not called.
//
// Timers: one for each Attempt that has a patience.
//
// What it does not do: it chooses no address and makes no socket.
package connect

import (
	"cmp"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// Events are what the socket of an Attempt is watched for, edge-triggered.
const Events = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLOUT | unix.EPOLLET

// Socket is a non-blocking stream socket and the interest of the shard in it. The
// zero value is not a closed one: use None.
type Socket struct {
	FD     int          // negative: none
	Watch  *shard.Watch // for Events; nil: it is not watched
	Events uint32       // delivered by the watch so far
}

// None is no socket.
func None() Socket { return Socket{FD: -1} }

// Release gives the socket away.
func (s *Socket) Release() Socket {
	given := *s
	*s = None()
	return given
}

// Close closes the socket, if there is one.
func (s *Socket) Close() {
	if s.FD >= 0 {
		if s.Watch != nil {
			s.Watch.Forget()
		}
		unix.Close(s.FD)
		*s = None()
	}
}

// Reset closes the socket so that the peer sees a RST.
func (s *Socket) Reset() {
	if s.FD >= 0 {
		SetAbortiveClose(s.FD)
		s.Close()
	}
}

// Prepare sets the options for moving bytes on a TCP socket that is going to
// connect, or on a listener, whose connections inherit them. A failure would only
// make the connection slower.
func Prepare(fd int) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // the guest's sender decides
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) // urgent data is data, in order
}

// SetAbortiveClose makes closing the socket send a RST: SO_LINGER with zero
// seconds, socket(7).
func SetAbortiveClose(fd int) {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// Attempt is a socket that is being connected. Its fields are set before Start.
type Attempt struct {
	Socket
	Shard *shard.Shard
	// Done is called with the outcome, zero when connected. A socket that has
	// connected to itself counts as ECONNREFUSED: nobody listens, and the kernel
	// chose that very port for our side (RFC 9293 section 3.5, figure 7).
	Done func(unix.Errno)
	// Bound says that the socket is bound to an address other than its destination's,
	// so that it cannot connect to itself.
	Bound bool

	to    netip.AddrPort
	timer shard.Timer
}

// Start takes over a socket and connects it. Done is called before Start returns
// where the outcome is known at once; else later, with ETIMEDOUT after patience,
// in which zero means the kernel's own.
func (a *Attempt) Start(fd int, to netip.AddrPort, patience time.Duration) {
	a.Socket = Socket{FD: fd}
	a.to = to
	var sa sockio.Addr
	sa.Set(to)
	errno := sockio.Connect(fd, &sa)
	if errno != unix.EINPROGRESS {
		a.finish(errno)
		return
	}
	if sockio.Connected(a.FD) {
		a.finish(0)
		return
	}
	var err error
	if a.Watch, err = a.Shard.Watch(a.FD, Events, a); err != nil {
		a.finish(unix.ENOBUFS)
		return
	}
	if patience > 0 {
		a.Shard.Arm(&a.timer, patience, a)
	}
}

// Ready implements shard.Handler: the server's kernel has answered.
func (a *Attempt) Ready(events uint32) {
	answered := a.Events & unix.EPOLLOUT
	a.Events |= events
	if answered != 0 || events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		return
	}
	errno := unix.Errno(0)
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		errno = sockio.Error(a.FD)
		if errno == 0 && !sockio.Connected(a.FD) {
			// Linux queues an ICMP error, and wakes us for it, before it sets the
			// socket's error (tcp_v4_err). Connected has waited for the socket's
			// lock, so the error is set now.
			errno = sockio.Error(a.FD)
			if errno == 0 && events&unix.EPOLLHUP == 0 {
				// An error that does not end the attempt. Left on the queue, it would
				// come with every later event.
				unix.Recvmsg(a.FD, nil, nil, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
				a.Events &^= unix.EPOLLERR
				return
			}
			errno = cmp.Or(errno, unix.ECONNRESET)
		}
	}
	a.Shard.Disarm(&a.timer)
	a.finish(errno)
}

// Run implements shard.Task for the timer.
func (a *Attempt) Run() {
	// The answer may have come while the shard was too busy to look.
	if sockio.Connected(a.FD) {
		a.Ready(unix.EPOLLOUT)
		return
	}
	a.finish(unix.ETIMEDOUT)
}

func (a *Attempt) finish(errno unix.Errno) {
	if errno == 0 && !a.Bound && sockio.LocalAddr(a.FD) == a.to {
		errno = unix.ECONNREFUSED
	}
	a.Done(errno)
}

// Close gives the attempt up.
func (a *Attempt) Close() {
	a.Shard.Disarm(&a.timer)
	a.Socket.Close()
}

// Reset gives the attempt up so that a server that has accepted sees a RST.
func (a *Attempt) Reset() {
	a.Shard.Disarm(&a.timer)
	a.Socket.Reset()
}
