package forwarder

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/proxy"
	"epiphyte/internal/shard"
)

// proxyPatience is how long a proxy may take to connect: longer than a kernel tries, and
// than a guest repeats its SYN.
const proxyPatience = 150 * time.Second

// proxyDial is the part of a dial in which a proxy is asked to connect to the destination.
// The guest hears nothing until the proxy has.
type proxyDial struct {
	dial  *dial
	talk  *proxy.Talk
	path  string // of the proxy's Unix socket; empty: it is on the network
	timer shard.Timer
	done  bool
}

// socket opens a socket towards the proxy: connected, if it is a Unix socket. The source
// that is set for the guest's flows does not apply to it.
func (p *proxyDial) socket(to netip.AddrPort) (fd int, errno unix.Errno) {
	f := p.dial.f
	if p.path == "" {
		return f.open(familyOf(to.Addr()), unix.SOCK_STREAM, 0)
	}
	if fd, errno = f.open(unix.AF_UNIX, unix.SOCK_STREAM, 0); errno != 0 {
		return fd, errno
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: p.path}); err != nil {
		unix.Close(fd)
		return -1, unix.ECONNREFUSED // nobody listens, or too many wait; errors about a path mean nothing to a guest
	}
	return fd, 0
}

// start begins the talk, once the dial's socket is connected.
func (p *proxyDial) start() {
	s, shard := &p.dial.host.Socket, p.dial.f.cfg.Shard
	if s.Watch == nil {
		var err error
		if s.Watch, err = shard.Watch(s.FD, connect.Events, p); err != nil {
			p.dial.fail(unix.ENOBUFS)
			return
		}
	} else {
		s.Watch.SetHandler(p)
	}
	shard.Arm(&p.timer, proxyPatience, p)
	p.say(p.talk.Start())
}

// say sends words, so few that a new socket takes them at once.
func (p *proxyDial) say(words []byte) bool {
	if n, err := unix.Write(p.dial.host.FD, words); err != nil || n < len(words) {
		p.dial.fail(unix.ECONNREFUSED)
		return false
	}
	return true
}

// Ready implements shard.Handler.
func (p *proxyDial) Ready(events uint32) {
	p.dial.host.Events |= events
	for !p.dial.ended && !p.done {
		if !p.hear(events) {
			return
		}
	}
}

// hear reads what the proxy has said, and no byte beyond. It reports whether there may be
// more.
func (p *proxyDial) hear(events uint32) bool {
	var buf [proxy.MaxWords]byte
	n, _, err := unix.Recvfrom(p.dial.host.FD, buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err == unix.EINTR {
		return true
	}
	if err == unix.EAGAIN {
		return false
	}
	var a proxy.Answer
	if err == nil && n > 0 {
		a = p.talk.Hear(buf[:n])
	}
	const over = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	switch {
	case a.Errno != 0:
		p.dial.fail(a.Errno)
		return false
	case a.Words == 0 && (n <= 0 || n == len(buf) || events&over != 0):
		p.dial.fail(unix.ECONNREFUSED)
		return false
	case a.Words == 0:
		return false
	}
	unix.Recvfrom(p.dial.host.FD, buf[:a.Words], unix.MSG_DONTWAIT)
	if len(a.Say) > 0 && !p.say(a.Say) {
		return false
	}
	if a.Done {
		p.finish()
	}
	return true
}

// finish continues the dial: the host has answered.
func (p *proxyDial) finish() {
	p.done = true
	p.stop()
	s := &p.dial.host
	s.Events |= unix.EPOLLIN | unix.EPOLLOUT // as far as we know
	s.Watch.SetHandler(s)
	p.dial.answered(0)
}

// Run implements shard.Task for the timer.
func (p *proxyDial) Run() { p.dial.fail(unix.ETIMEDOUT) }

// stop ends the timer of a proxyDial, if there is one.
func (p *proxyDial) stop() {
	if p != nil {
		p.dial.f.cfg.Shard.Disarm(&p.timer)
	}
}
