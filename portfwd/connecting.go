package portfwd

import (
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// held is a socket that is ours until the relay takes it over.
type held struct{ relay.Socket }

// none is no socket.
func none() held { return held{relay.Socket{FD: -1}} }

// release gives the socket away.
func (h *held) release() relay.Socket {
	s := h.Socket
	*h = none()
	return s
}

func (h *held) close() {
	if h.FD >= 0 {
		if h.Watch != nil {
			h.Watch.Forget()
		}
		unix.Close(h.FD)
		*h = none()
	}
}

// connecting is a socket whose connect is under way, towards the guest's server
// or the host's.
type connecting struct {
	held
	shard    *shard.Shard
	timer    shard.Timer
	answered func(unix.Errno) // zero: connected; called once for each await
}

// await takes over a socket that has begun to connect. false: it could not,
// and the socket is closed. One that is connected already is not watched.
func (c *connecting) await(fd int, patience time.Duration) bool {
	if sockio.Connected(fd) {
		c.held = held{relay.Socket{FD: fd}}
		c.answered(0)
		return true
	}
	watch, err := c.shard.Watch(fd, relay.SocketEvents, c)
	if err != nil {
		unix.Close(fd)
		return false
	}
	c.held = held{relay.Socket{FD: fd, Watch: watch}}
	c.shard.Arm(&c.timer, patience, c)
	return true
}

// Ready implements shard.Handler: the server's kernel has answered.
func (c *connecting) Ready(events uint32) {
	c.Events |= events
	if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		return
	}
	c.shard.Disarm(&c.timer)
	errno, err := unix.GetsockoptInt(c.FD, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		errno = int(unix.EIO)
	}
	c.answered(unix.Errno(errno))
}

// Run implements shard.Task for the timer.
func (c *connecting) Run() {
	// The answer may be there and we were too busy to hear it.
	if sockio.Connected(c.FD) {
		c.Ready(unix.EPOLLOUT)
		return
	}
	c.answered(unix.ETIMEDOUT)
}

func (c *connecting) close() {
	c.shard.Disarm(&c.timer)
	c.held.close()
}
