package forwarder

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/proxy"
	"epiphyte/internal/shard"
)

// errandPatience is how long a proxy may take to connect: longer than a kernel tries, and
// than a guest repeats its SYN for.
const errandPatience = 150 * time.Second

// errand is the part of a dial in which a proxy, that we are connected to, is asked to
// connect to the destination. The guest hears nothing until it has.
type errand struct {
	dial  *dial
	talk  *proxy.Talk
	path  string // of the proxy's Unix socket; empty: it is on the network
	timer shard.Timer
	done  bool
}

// socket is one towards the proxy: connected, if it is a Unix socket. The source that is
// set for the guest's flows says nothing about the way to a proxy.
func (e *errand) socket(to netip.AddrPort) (fd int, errno unix.Errno) {
	f := e.dial.f
	if e.path == "" {
		return f.open(familyOf(to.Addr()), unix.SOCK_STREAM, 0)
	}
	if fd, errno = f.open(unix.AF_UNIX, unix.SOCK_STREAM, 0); errno != 0 {
		return fd, errno
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: e.path}); err != nil {
		unix.Close(fd)
		return -1, unix.ECONNREFUSED // nobody listens, or too many wait; a guest knows no paths
	}
	return fd, 0
}

// start speaks first, once the dial's socket is connected.
func (e *errand) start() {
	s, shard := &e.dial.host.Socket, e.dial.f.cfg.Shard
	if s.Watch == nil {
		var err error
		if s.Watch, err = shard.Watch(s.FD, connect.Events, e); err != nil {
			e.dial.fail(unix.ENOBUFS)
			return
		}
	} else {
		s.Watch.SetHandler(e)
	}
	shard.Arm(&e.timer, errandPatience, e)
	e.say(e.talk.Start())
}

// say sends words. A socket that is new takes so few at once.
func (e *errand) say(words []byte) bool {
	if n, err := unix.Write(e.dial.host.FD, words); err != nil || n < len(words) {
		e.dial.fail(unix.ECONNREFUSED)
		return false
	}
	return true
}

// Ready implements shard.Handler.
func (e *errand) Ready(events uint32) {
	e.dial.host.Events |= events
	for !e.dial.ended && !e.done {
		if !e.hear(events) {
			return
		}
	}
}

// hear reads what the proxy has said, and nothing of what follows it. It reports whether
// there may be more.
func (e *errand) hear(events uint32) bool {
	var buf [proxy.MaxWords]byte
	n, _, err := unix.Recvfrom(e.dial.host.FD, buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err == unix.EINTR {
		return true
	}
	if err == unix.EAGAIN {
		return false
	}
	var a proxy.Answer
	if err == nil && n > 0 {
		a = e.talk.Hear(buf[:n])
	}
	const over = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	switch {
	case a.Errno != 0:
		e.dial.fail(a.Errno)
		return false
	case a.Words == 0 && (n <= 0 || n == len(buf) || events&over != 0):
		e.dial.fail(unix.ECONNREFUSED)
		return false
	case a.Words == 0:
		return false
	}
	unix.Recvfrom(e.dial.host.FD, buf[:a.Words], unix.MSG_DONTWAIT)
	if len(a.Say) > 0 && !e.say(a.Say) {
		return false
	}
	if a.Done {
		e.finish()
	}
	return true
}

// finish goes on with the dial: the host has answered.
func (e *errand) finish() {
	e.done = true
	e.stop()
	s := &e.dial.host
	s.Events |= unix.EPOLLIN | unix.EPOLLOUT // as far as we know
	s.Watch.SetHandler(s)
	e.dial.answered(0)
}

// Run implements shard.Task for the timer.
func (e *errand) Run() { e.dial.fail(unix.ETIMEDOUT) }

// stop ends the timer of an errand, if there is one.
func (e *errand) stop() {
	if e != nil {
		e.dial.f.cfg.Shard.Disarm(&e.timer)
	}
}
