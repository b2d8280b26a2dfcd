package relay

import (
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

const (
	// The guest's kernel acknowledges the last bytes within microseconds, unless the guest
	// is frozen or reads slowly. Then its socket is checked at growing intervals, and finally
	// reset when nothing more has been acknowledged for as long as the kernel waits with its
	// own (tcp_fin_timeout).
	lookFirst = 10 * time.Millisecond
	lookMost  = time.Second
	lookFor   = time.Minute
)

// lingering is the guest's socket of a flow that has ended, until the guest's kernel has
// acknowledged everything: up to then it needs the rule that leads there.
type lingering struct {
	r            *Relay
	fd           int
	done         func() // when the socket is closed
	timer        shard.Timer
	wait, waited time.Duration
	acked        uint64 // bytes that the guest had acknowledged at the last look
}

// linger takes over a socket whose close is abortive, and closes it when the guest no longer
// needs it, or at once unless the flow has ended in order.
func (r *Relay) linger(fd int, inOrder bool, done func()) {
	l := &lingering{r: r, fd: fd, done: done, wait: lookFirst}
	r.lingering[l] = struct{}{}
	if !inOrder || sockio.Closed(fd) {
		l.close()
		return
	}
	unix.Shutdown(fd, unix.SHUT_WR) // the second end of stream has not been passed on yet
	r.shard.Arm(&l.timer, l.wait, l)
}

// Run implements shard.Task for the timer.
func (l *lingering) Run() {
	l.waited += l.wait
	if info, err := unix.GetsockoptTCPInfo(l.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.Bytes_acked > l.acked {
		l.acked, l.waited = info.Bytes_acked, 0
	}
	if l.waited >= lookFor || sockio.Closed(l.fd) {
		l.close()
		return
	}
	l.wait = min(2*l.wait, lookMost)
	l.r.shard.Arm(&l.timer, l.wait, l)
}

func (l *lingering) close() {
	l.r.shard.Disarm(&l.timer)
	delete(l.r.lingering, l)
	unix.Close(l.fd) // before the rule goes: the guest may answer a reset
	l.done()
}
