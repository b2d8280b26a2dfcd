package portfwd

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

const (
	// acceptBatch clients are taken before others get their turn.
	acceptBatch = 64
	// acceptPause is how long listeners rest when the process is out of descriptors or
	// has too many clients waiting; the kernel would keep reporting the waiting clients.
	acceptPause = 50 * time.Millisecond
)

// listener takes the clients of a TCP socket that listens, in either direction.
type listener struct {
	m      *Manager
	fd     int
	to     destination
	watch  *shard.Watch
	paused bool
}

// destination is where the clients of a listener go.
type destination interface {
	full() bool // further clients must wait in the kernel's queue
	take(fd int, client netip.AddrPort)
}

func (l *listener) open() (err error) {
	if l.fd < 0 { // removed before it began
		return nil
	}
	if l.watch, err = l.m.cfg.Shard.Watch(l.fd, unix.EPOLLIN, l); err != nil {
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

func (l *listener) descriptor() int { return l.fd }

// Ready implements shard.Handler: clients wait.
func (l *listener) Ready(events uint32) {
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		// Root of a namespace may destroy its sockets (SOCK_DESTROY, sock_diag(7)).
		// The kernel reports a destroyed socket again and again.
		l.m.cfg.Logger.Warn("a listening socket was destroyed", "address", sockio.LocalAddr(l.fd))
		l.close()
		return
	}
	for range acceptBatch {
		if l.to.full() {
			l.pause()
			return
		}
		fd, client, errno := sockio.Accept(l.fd)
		switch errno {
		case 0:
			if l.to.take(fd, client); l.paused { // by take
				return
			}
		case unix.ECONNABORTED, unix.EINTR: // that client has gone
		case unix.EAGAIN:
			return
		default: // EMFILE and its like
			l.m.cfg.Table.Meet(flow.LimitDescriptors)
			l.pause()
			return
		}
	}
}

// pause leaves clients in the kernel's queue for acceptPause.
func (l *listener) pause() {
	if l.paused || l.watch.Modify(0) != nil {
		return
	}
	l.paused = true
	l.m.paused = append(l.m.paused, l)
	if !l.m.cfg.Shard.Armed(&l.m.retry) {
		l.m.cfg.Shard.Arm(&l.m.retry, acceptPause, shard.TaskFunc(l.m.resume))
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
