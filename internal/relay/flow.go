package relay

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/stack"
)

const (
	// pumpRounds of one flow before others get their turn: at 64 kB each, half a
	// megabyte, about what one batch of the device is.
	pumpRounds = 8
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
	hostFailed                   bool // it said error
	hostDone                     bool // the host's EOF was passed on
	guestDone                    bool // the guest's EOF was passed on
	queued                       bool // runnable again in the next turn
	watchesOut                   bool // the watch tells when the host's end can take more
	keepalive                    keepalive
	buffers                      int
	counters                     Counters
}

// flowEvents are what the host's end of a flow is watched for, edge-triggered.
// Most connections are never told to wait with writing: EPOLLOUT is added when
// one is, and saves the others a wake-up at their beginning.
const flowEvents = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET

// Start joins a connection of the guest to a connected, non-blocking stream
// socket of the host, which Prepare was called for, and moves bytes until both
// sides have closed or one has failed. It takes over both.
//
// Where the socket is watched already, for FlowEvents, the watch is w, and
// events are those that it has delivered so far; else w is nil.
func (r *Relay) Start(c *stack.Conn, fd int, w *shard.Watch, events uint32) {
	fl := &Flow{
		r: r, conn: c, fd: fd, watch: w, watchesOut: w != nil,
		hostWritable: true, guestReadable: true, guestWritable: true,
		buffers:  r.budget.take(),
		counters: Counters{Begun: r.shard.Now(), Last: r.shard.Now()},
	}
	fl.note(events)
	r.totals.Connections++
	r.flows[fl] = struct{}{}
	if w != nil {
		w.SetHandler(fl)
	} else if w, err := r.shard.Watch(fd, flowEvents, fl); err == nil {
		fl.watch = w // what is there already is told in the next turn
	} else {
		fl.abortGuest()
		return
	}
	if fl.buffers < maxBuffers {
		c.SetBuffers(fl.buffers, fl.buffers)
	}
	c.SetNotify(fl.guestReady)
	r.keepaliveLater()
	fl.pump()
}

// FlowEvents are what the watch of a socket has to be for if it is given to
// Start.
const FlowEvents = flowEvents | unix.EPOLLOUT

// note remembers what an edge tells only once.
func (fl *Flow) note(events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		fl.hostReadable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		fl.hostHangup = true
	}
	if events&unix.EPOLLERR != 0 {
		fl.hostFailed = true
	}
}

// Ready implements shard.Handler: the host's end moved.
func (fl *Flow) Ready(events uint32) {
	fl.note(events)
	if fl.hostDone && events&unix.EPOLLERR != 0 {
		// Nobody reads any more, so nobody would see the reset.
		fl.abortGuest()
		return
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
			fl.r.keepaliveLater()
			return
		}
		n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fl.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(elements))
		if errno == unix.EAGAIN {
			fl.hostFull()
			return
		}
		if errno != 0 {
			fl.abortGuest()
			return
		}
		fl.conn.Discard(int(n), fl.buffers == maxBuffers)
		fl.moved(&fl.counters.Out, int(n))
		if int(n) < size {
			fl.hostFull()
			return
		}
	}
}

// hostFull waits for the host's end to take more.
func (fl *Flow) hostFull() {
	fl.hostWritable = false
	if !fl.watchesOut {
		fl.watchesOut = true
		fl.watch.Modify(FlowEvents) // tells at once if there is room again
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
	if !fl.hostFailed {
		fl.hostDone = true
		fl.conn.CloseWrite()
		return
	}
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
		if fl.watch != nil {
			fl.watch.Forget()
		}
		unix.Close(fl.fd)
		fl.fd = -1
	}
}
