package relay

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/repair"
	"epiphyte/stack"
)

const (
	// pumpRounds of one flow before others get their turn: at 64 kB each, half a
	// megabyte, about what one batch of the device is.
	pumpRounds = 8
)

// conn is one established TCP connection: the guest's end and the host's.
//
// The four able flags say where a direction may make progress: edge-triggered
// events set them, and the call that finds nothing to do clears them.
type conn struct {
	r      *Relay
	record *flow.Flow
	guest  *stack.Conn
	host   connect.Socket

	hostReadable, hostWritable   bool
	guestReadable, guestWritable bool
	hostHangup                   bool // the host's end said EOF or error: look for it
	hostFailed                   bool // it said error
	hostDone                     bool // the host's EOF was passed on
	guestDone                    bool // the guest's EOF was passed on
	queued                       bool // runnable again in the next turn
	watchesOut                   bool // the watch tells when the host's end can take more
	keepalive                    keepalive
	over                         *handover // the hand-over under way; nil: none
	pace                         pace
	kernel                       *repair.Kernel // the guest's; nil: the connection stays on the device
	held                         *held          // the guest's first bytes, while a watch inspects them; nil: none does
}

// hostEvents are what the host's end of a connection is watched for,
// edge-triggered. EPOLLOUT is added when a write was cut short, which spares all
// other connections a wake-up at their start.
const hostEvents = connect.Events &^ unix.EPOLLOUT

// Start joins a connection of the guest to a connected stream socket of the host,
// which connect.Prepare was called for, and moves bytes until both sides have
// closed or one has failed. It takes over both, and the record, which is in the
// table.
func (r *Relay) Start(c *stack.Conn, s connect.Socket, record *flow.Flow) {
	r.StartWatched(c, s, record, nil)
}

// StartWatched is Start with a watch, unless it is nil, that sees the guest's first bytes
// before the host does.
func (r *Relay) StartWatched(c *stack.Conn, s connect.Socket, record *flow.Flow, watch policy.Watch) {
	fl := &conn{
		r: r, record: record, guest: c, host: s, watchesOut: s.Watch != nil,
		hostWritable: true, guestReadable: true, guestWritable: true,
	}
	if watch != nil {
		fl.hold(watch)
	}
	fl.begin()
	fl.note(s.Events)
	record.Owner, record.FD = fl, s.FD
	r.table.Establish(record)
	if s.Watch != nil {
		s.Watch.SetHandler(fl)
	} else if w, err := r.shard.Watch(s.FD, hostEvents, fl); err == nil {
		fl.host.Watch = w // what has arrived already is reported in the next turn
	} else {
		fl.abortGuest()
		return
	}
	c.SetNotify(fl.guestReady)
	r.keepaliveLater()
	fl.pump()
}

// note remembers what an edge tells only once.
func (fl *conn) note(events uint32) {
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
func (fl *conn) Ready(events uint32) {
	fl.note(events)
	if fl.over.frozen() {
		return // the socket that takes over finds it
	}
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

// guestReady is called by the stack when the guest's end has moved.
func (fl *conn) guestReady(r stack.Readiness) {
	if fl.host.FD < 0 {
		return
	}
	if r&stack.Gone != 0 && (fl.guest.Failed() || !fl.hostDone) {
		// Not an orderly end: the guest would have had our FIN first.
		fl.resetHost()
		return
	}
	fl.guestReadable = fl.guestReadable || r&stack.Readable != 0
	fl.guestWritable = fl.guestWritable || r&stack.Writable != 0
	fl.pump()
}

// Run implements shard.Task: another turn for a flow with work left.
func (fl *conn) Run() {
	fl.queued = false
	if fl.host.FD >= 0 {
		fl.pump()
	}
}

// pump moves what can be moved, both ways.
func (fl *conn) pump() {
	if fl.over.frozen() {
		return
	}
	if fl.guestReadable && fl.hostWritable && !fl.guestDone {
		fl.pumpOut()
	}
	if fl.host.FD >= 0 && fl.hostReadable && fl.guestWritable && !fl.hostDone && !fl.over.pausesHost() {
		fl.pumpIn()
	}
	if fl.kernel != nil && fl.host.FD >= 0 {
		fl.tendHandover()
	}
	switch {
	case fl.host.FD < 0, fl.over.frozen():
	case fl.guestDone && fl.hostDone:
		fl.close()
	case !fl.queued && (fl.guestReadable && fl.hostWritable && !fl.guestDone ||
		fl.hostReadable && fl.guestWritable && !fl.hostDone && !fl.over.pausesHost()):
		fl.queued = true
		fl.r.shard.Again(fl)
	}
}

// pumpOut writes what the guest has sent straight from the stack's buffers.
func (fl *conn) pumpOut() {
	if fl.held != nil && !fl.held.pump() {
		return
	}
	iov := fl.r.vectors[:]
	for range pumpRounds {
		elements, size, errno := fl.guest.Peek(iov)
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
			fl.record.State = flow.GuestClosed
			unix.Shutdown(fl.host.FD, unix.SHUT_WR)
			fl.r.keepaliveLater()
			return
		}
		n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fl.host.FD), uintptr(unsafe.Pointer(&iov[0])), uintptr(elements))
		if errno == unix.EAGAIN {
			fl.hostFull()
			return
		}
		if errno != 0 {
			fl.abortGuest()
			return
		}
		fl.guest.Discard(int(n))
		fl.moved(&fl.record.Out, int(n))
		if int(n) < size {
			fl.hostFull()
			return
		}
	}
}

// hostFull waits for the host's end to take more.
func (fl *conn) hostFull() {
	fl.hostWritable = false
	if !fl.watchesOut {
		fl.watchesOut = true
		fl.host.Watch.Modify(connect.Events) // tells at once if there is room again
	}
}

// pumpIn reads the host's socket straight into the stack's buffers.
func (fl *conn) pumpIn() {
	for range pumpRounds {
		var waiting int32
		unix.RawSyscall(unix.SYS_IOCTL, uintptr(fl.host.FD), unix.SIOCINQ, uintptr(unsafe.Pointer(&waiting)))
		if waiting == 0 {
			fl.hostReadable = false
			if fl.hostHangup {
				fl.readHangup()
			}
			return
		}
		n, errno := fl.guest.WriteFrom(fl.host.FD, min(int(waiting), stack.MaxWrite))
		fl.moved(&fl.record.In, n)
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

func (fl *conn) moved(counter *uint64, n int) {
	*counter += uint64(n)
	fl.r.table.Used(fl.record)
}

// readHangup finds out how the host's end ended, with nothing left to read.
func (fl *conn) readHangup() {
	if !fl.hostFailed {
		fl.passEOF()
		return
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(fl.host.FD, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == unix.EAGAIN:
	case err != nil:
		fl.abortGuest()
	case n == 0:
		fl.passEOF()
	default:
		fl.hostReadable = true
	}
}

// passEOF passes the host's end of stream on.
func (fl *conn) passEOF() {
	fl.hostDone = true
	fl.record.State = flow.HostClosed
	fl.guest.CloseWrite()
}

// resetHost passes a reset by the guest on to the host.
func (fl *conn) resetHost() {
	connect.SetAbortiveClose(fl.host.FD)
	fl.close()
}

// abortGuest passes a reset by the host, or a failure of the host's socket, on
// to the guest.
func (fl *conn) abortGuest() {
	fl.guest.Abort()
	fl.close()
}

func (fl *conn) close() {
	fl.r.table.Remove(fl.record)
	fl.End(flow.Closing)
	fl.guest.Close()
}

// End implements flow.Owner. When the table closes, the stack closes its own connections.
func (fl *conn) End(why flow.Reason) {
	if why == flow.Evicted {
		connect.SetAbortiveClose(fl.host.FD)
		fl.guest.Abort()
	}
	if fl.held != nil {
		fl.release()
	}
	if fl.over != nil {
		fl.over.abandon()
	}
	fl.host.Close()
}
