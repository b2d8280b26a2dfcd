package relay

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/stack"
)

const (
	// Rounds of one flow before others get their turn: at 64 kB each, half a
	// megabyte, about what one batch of the device is.
	pumpRounds = 8

	// RFC 9293 section 3.8.4 has keepalive off by default and above two hours;
	// a helper that lives as long as its container would gather the flows of
	// peers that vanished meanwhile. Probes cost one segment each.
	keepaliveIdle     = 5 * time.Minute
	keepaliveInterval = time.Minute

	// Once the guest has closed its side it may have closed the socket, and
	// then a Linux guest forgets it after 60 s in FIN-WAIT-2 and answers the
	// next probe with a RST; a guest that only shut its side down keeps
	// answering. So a host that never closes does not keep a flow for ever.
	halfClosedIdle     = 65 * time.Second
	halfClosedInterval = 15 * time.Second
)

// Flow is one established TCP connection: the guest's end and the host's.
//
// The four able flags say where a direction may make progress: edge-triggered
// events set them, and the call that finds nothing to do clears them.
type Flow struct {
	r     *Relay
	conn  *stack.Conn
	fd    int // -1 when closed
	watch *shard.Watch

	hostReadable, hostWritable   bool
	guestReadable, guestWritable bool
	hostHangup                   bool // the host's end said EOF or error: look for it
	hostDone                     bool // the host's EOF was passed on
	guestDone                    bool // the guest's EOF was passed on
	queued                       bool // runnable again in the next turn
	buffers                      int
	counters                     Counters
}

// Start joins a connection of the guest to a connected, non-blocking stream
// socket of the host and moves bytes until both sides have closed or one has
// failed. It takes over both, and the socket's watch; events are those that
// the watch has delivered so far.
func (r *Relay) Start(c *stack.Conn, fd int, w *shard.Watch, events uint32) {
	fl := &Flow{
		r: r, conn: c, fd: fd, watch: w,
		hostReadable: true, hostWritable: true, guestReadable: true, guestWritable: true,
		hostHangup: events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0,
		buffers:    r.budget.take(),
		counters:   Counters{Begun: r.shard.Now(), Last: r.shard.Now()},
	}
	r.totals.Connections++
	r.flows[fl] = struct{}{}
	w.SetHandler(fl)
	SetSocketOptions(fd)
	c.SetKeepalive(keepaliveIdle, keepaliveInterval)
	if fl.buffers < maxBuffers {
		c.SetBuffers(fl.buffers, fl.buffers)
	}
	c.SetNotify(fl.guestReady)
	fl.pump()
}

// SetSocketOptions sets up a socket for the relay, or a listener for the sockets
// that are accepted from it. Failures leave a slower or less watchful connection,
// and do not happen on TCP sockets; the resolver's streams, which are not, need
// none of it.
func SetSocketOptions(fd int) {
	for _, o := range [...]struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, // the guest's sender decides
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1}, // urgent data is data, in order
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepaliveIdle.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepaliveInterval.Seconds())},
	} {
		if unix.SetsockoptInt(fd, o.level, o.name, o.value) != nil {
			return
		}
	}
}

// Ready implements shard.Handler: the host's end moved.
func (fl *Flow) Ready(events uint32) {
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		fl.hostHangup = true
		if fl.hostDone && events&unix.EPOLLERR != 0 {
			// Nobody reads any more, so nobody would see the reset.
			fl.abortGuest()
			return
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		fl.hostReadable = true
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		fl.hostWritable = true
	}
	fl.pump()
}

// guestReady is told by the stack that the guest's end moved.
func (fl *Flow) guestReady(r stack.Readiness) {
	if fl.fd < 0 {
		return
	}
	if r&stack.Gone != 0 && (fl.conn.Failed() || !fl.hostDone) {
		// Not an orderly end: the guest would have had our FIN first.
		fl.resetHost()
		return
	}
	fl.guestReadable = fl.guestReadable || r&stack.Readable != 0
	fl.guestWritable = fl.guestWritable || r&stack.Writable != 0
	fl.pump()
}

// Run implements shard.Task: another turn for a flow with work left.
func (fl *Flow) Run() {
	fl.queued = false
	if fl.fd >= 0 {
		fl.pump()
	}
}

// pump moves what can be moved, both ways.
func (fl *Flow) pump() {
	if fl.guestReadable && fl.hostWritable && !fl.guestDone {
		fl.pumpOut()
	}
	if fl.fd >= 0 && fl.hostReadable && fl.guestWritable && !fl.hostDone {
		fl.pumpIn()
	}
	switch {
	case fl.fd < 0:
	case fl.guestDone && fl.hostDone:
		fl.close()
	case !fl.queued && (fl.guestReadable && fl.hostWritable && !fl.guestDone ||
		fl.hostReadable && fl.guestWritable && !fl.hostDone):
		fl.queued = true
		fl.r.shard.Again(fl)
	}
}

// pumpOut writes what the guest has sent straight from the stack's buffers.
func (fl *Flow) pumpOut() {
	iov := fl.r.vectors[:]
	for range pumpRounds {
		elements, size, errno := fl.conn.Peek(iov)
		if errno == unix.EAGAIN {
			fl.guestReadable = false
			return
		}
		if errno != 0 {
			fl.resetHost()
			return
		}
		if size == 0 {
			fl.guestDone = true
			unix.Shutdown(fl.fd, unix.SHUT_WR)
			fl.conn.SetKeepalive(halfClosedIdle, halfClosedInterval)
			return
		}
		n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fl.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(elements))
		if errno == unix.EAGAIN {
			fl.hostWritable = false
			return
		}
		if errno != 0 {
			fl.abortGuest()
			return
		}
		fl.conn.Discard(int(n), fl.buffers == maxBuffers)
		fl.moved(&fl.counters.Out, int(n))
		if int(n) < size {
			fl.hostWritable = false // full; an edge will tell
			return
		}
	}
}

// pumpIn reads the host's socket straight into the stack's buffers.
func (fl *Flow) pumpIn() {
	for range pumpRounds {
		var waiting int32
		unix.RawSyscall(unix.SYS_IOCTL, uintptr(fl.fd), unix.SIOCINQ, uintptr(unsafe.Pointer(&waiting)))
		if waiting == 0 {
			fl.hostReadable = false
			if fl.hostHangup {
				fl.readHangup()
			}
			return
		}
		n, errno := fl.conn.WriteFrom(fl.fd, min(int(waiting), stack.MaxWrite))
		fl.moved(&fl.counters.In, n)
		switch errno {
		case 0:
		case unix.EAGAIN:
			fl.guestWritable = false
			return
		case unix.EIO:
			fl.abortGuest()
			return
		default:
			fl.resetHost()
			return
		}
		if n == int(waiting) && !fl.hostHangup {
			fl.hostReadable = false // drained; an edge will tell of more
			return
		}
	}
}

func (fl *Flow) moved(counter *uint64, n int) {
	*counter += uint64(n)
	fl.counters.Last = fl.r.shard.Now()
}

// readHangup finds out how the host's end ended, with nothing left to read.
func (fl *Flow) readHangup() {
	var b [1]byte
	n, _, err := unix.Recvfrom(fl.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == unix.EAGAIN:
	case err != nil:
		fl.abortGuest()
	case n == 0:
		fl.hostDone = true
		fl.conn.CloseWrite()
	default:
		fl.hostReadable = true
	}
}

// resetHost passes a reset by the guest on to the host.
func (fl *Flow) resetHost() {
	SetAbortiveClose(fl.fd)
	fl.close()
}

// abortGuest passes a reset by the host, or a failure of the host's socket, on
// to the guest.
func (fl *Flow) abortGuest() {
	fl.conn.Abort()
	fl.close()
}

func (fl *Flow) close() {
	fl.closeSocket()
	fl.conn.Close()
	fl.r.totals.In += fl.counters.In
	fl.r.totals.Out += fl.counters.Out
	delete(fl.r.flows, fl)
	fl.r.budget.give(fl.buffers)
}

func (fl *Flow) closeSocket() {
	if fl.fd >= 0 {
		fl.watch.Forget()
		unix.Close(fl.fd)
		fl.fd = -1
	}
}
