package relay

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/sockio"
)

const (
	// spliceRounds of one direction before others get their turn; each moves
	// up to pipeSize.
	spliceRounds = 8
	// scratchSize bounds what is copied at once where there is no pipe.
	scratchSize = 64 << 10
	// wholeBelow: a splice that returns fewer bytes than this has emptied the socket. It
	// takes a limited number of pieces, of a segment (MAX_SKB_FRAGS) or into the pipe; one
	// that returns fewer bytes than that was not cut short.
	wholeBelow = 16
	// bulkPiece is how much a splice moves at least in a bulk transfer: half a segment of the
	// largest size. Fewer bytes are as likely an answer that someone waits for.
	bulkPiece = 32 << 10
	// hangups are those of an end of stream, or of an error.
	hangups = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
)

// splice is one established TCP connection both of whose ends are sockets: the
// host's, and one that was made in the guest's network namespace. The kernel
// moves the bytes, by way of a pipe.
type splice struct {
	r      *Relay
	record *flow.Flow
	host   spliceEnd
	guest  spliceEnd
	queued bool
	closed bool
}

// spliceEnd is one socket, and the direction that begins at it.
//
// The able flags are set by edge-triggered events, and cleared by the call that
// finds nothing to do.
type spliceEnd struct {
	connect.Socket
	s        *splice
	peer     *spliceEnd
	pipe     *pipe   // bytes from here that the peer has not taken; nil: none
	moved    *uint64 // bytes from here that the peer has taken
	readable bool
	writable bool
	outward  bool // the watch tells when it can take more
	done     bool // its end of stream was passed on
	hangup   bool // its end of stream or an error is yet to be read
	urgent   bool // it has had urgent data, which splice does not pass
	// carried is called when the socket is closed; nil: the guest's kernel needs no rule to
	// reach it.
	carried func()

	keepalive keepalive
}

// Join joins a connection of the host to one within the guest, and moves bytes
// until both sides have closed or one has failed. It takes over both sockets,
// which connect.Prepare was called for, and the record, which is in the table.
func (r *Relay) Join(host, guest connect.Socket, record *flow.Flow) {
	r.table.Establish(record)
	r.join(host, guest, record, nil, nil)
}

// JoinCarried is Join for a connection between two members, each of whose kernels carries it:
// their sockets' close is abortive. ended is called when the flow has ended, and neither kernel
// needs its rule any longer.
func (r *Relay) JoinCarried(a, b connect.Socket, record *flow.Flow, ended func()) {
	r.table.Establish(record)
	left := 2
	one := func() {
		if left--; left == 0 {
			ended()
		}
	}
	r.join(a, b, record, one, one)
}

// join is Join for a flow that is established. The functions are the ends' carried.
func (r *Relay) join(host, guest connect.Socket, record *flow.Flow, hostCarried, guestCarried func()) {
	s := &splice{r: r, record: record}
	s.host = spliceEnd{s: s, peer: &s.guest, moved: &record.In, carried: hostCarried}
	s.guest = spliceEnd{s: s, peer: &s.host, moved: &record.Out, carried: guestCarried}
	record.Owner, record.FD = s, host.FD
	r.spliced++
	s.host.take(host)
	s.guest.take(guest)
	r.keepaliveLater()
	if s.host.wasReset() || s.guest.wasReset() {
		s.reset()
		return
	}
	s.pump()
	if !s.closed && errors.Join(s.host.observe(), s.guest.observe()) != nil {
		s.reset()
	}
}

// wasReset reports whether the guest has reset a connection that was handed over, which the agent
// may have been told instead of us.
func (e *spliceEnd) wasReset() bool { return e.carried != nil && sockio.Closed(e.FD) }

// take takes over the socket, and the events that its watch has delivered so far.
func (e *spliceEnd) take(from connect.Socket) {
	e.Socket = from
	e.readable, e.writable = from.Events&^unix.EPOLLOUT != 0, true
	e.note(from.Events)
	if e.Watch != nil {
		e.Watch.SetHandler(e)
		e.outward = true
	}
}

// observe watches the socket unless it is watched already. Bytes that are there
// already are reported in the next turn.
func (e *spliceEnd) observe() (err error) {
	if e.Watch == nil {
		events := uint32(hostEvents)
		if e.outward {
			events = connect.Events
		}
		e.Watch, err = e.s.r.shard.Watch(e.FD, events, e)
	}
	return err
}

// Ready implements shard.Handler.
func (e *spliceEnd) Ready(events uint32) {
	e.note(events)
	if events&(unix.EPOLLIN|unix.EPOLLPRI|hangups) != 0 {
		e.readable = true
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.writable = true
	}
	e.s.pump()
	if events&unix.EPOLLERR != 0 && !e.s.closed && (e.done || e.pipe != nil || !e.peer.writable) {
		// Nobody reads this end now, so nobody would see the reset.
		e.s.reset()
	}
}

// note remembers what an edge tells only once.
func (e *spliceEnd) note(events uint32) {
	e.urgent = e.urgent || events&unix.EPOLLPRI != 0
	e.hangup = e.hangup || events&hangups != 0
}

// Run implements shard.Task: another turn for a connection with work left.
func (s *splice) Run() {
	s.queued = false
	if !s.closed {
		s.pump()
	}
}

// able reports whether the direction that begins at e may make progress.
func (e *spliceEnd) able() bool {
	return !e.done && e.peer.writable && (e.readable || e.pipe != nil)
}

// pump moves what can be moved, both ways.
func (s *splice) pump() {
	for _, e := range [2]*spliceEnd{&s.host, &s.guest} {
		if e.able() {
			e.pump()
		}
		if s.closed {
			return
		}
	}
	switch {
	case s.host.done && s.guest.done:
		s.close()
	case !s.queued && (s.host.able() || s.guest.able()):
		s.queued = true
		s.r.shard.Again(s)
	}
}

func (e *spliceEnd) pump() {
	for range spliceRounds {
		if e.urgent {
			if e.pipe == nil || e.drain() {
				e.copy()
			}
		} else if e.pipe != nil || e.fill() {
			e.drain()
		}
		if e.s.closed || !e.able() {
			return
		}
	}
}

// fill takes what has arrived into a pipe and reports whether there is
// something in it.
func (e *spliceEnd) fill() bool {
	p := e.s.r.takePipe()
	if p == nil {
		e.copy()
		return false
	}
	n, errno := spliceBytes(e.FD, p.w, pipeSize)
	if p.held = n; n > 0 {
		e.pipe = p
		e.readable = n >= min(wholeBelow, p.slots) || e.hangup
		return true
	}
	e.s.r.givePipe(p)
	if errno == 0 && e.hasBytes() {
		// Not the end: an urgent byte is next, and the FIN is there already. Its event may be
		// yet to come.
		e.urgent = true
		e.copy()
		return false
	}
	e.ended(errno)
	return false
}

func (e *spliceEnd) hasBytes() bool {
	n, err := unix.IoctlGetInt(e.FD, unix.SIOCINQ)
	return err == nil && n > 0
}

// ended is called when nothing could be read: at the end of the stream (errno zero),
// because nothing is there yet, or because the socket has failed.
func (e *spliceEnd) ended(errno unix.Errno) {
	switch errno {
	case 0:
		e.done = true
		e.s.record.State = flow.HostClosed
		if e == &e.s.guest {
			e.s.record.State = flow.GuestClosed
		}
		if !e.peer.done { // else both are closed now, which says the same
			unix.Shutdown(e.peer.FD, unix.SHUT_WR)
			e.s.r.keepaliveLater()
		}
	case unix.EAGAIN:
		e.readable = false
	case unix.EINTR:
	default:
		e.s.reset()
	}
}

// drain passes the pipe's bytes on and reports whether it is empty.
func (e *spliceEnd) drain() bool {
	p := e.pipe
	n, errno := spliceBytes(p.r, e.peer.FD, p.held)
	switch errno {
	case 0:
		p.held -= n
		e.count(n)
		if p.held > 0 {
			return false // an EAGAIN will follow, and an edge after it
		}
		e.pipe = nil
		e.s.r.givePipe(p)
		return true
	case unix.EAGAIN:
		e.peer.full()
	case unix.EINTR:
	default:
		e.s.reset()
	}
	return false
}

// full waits for the end to take more.
func (e *spliceEnd) full() {
	e.writable = false
	if !e.outward {
		e.outward = true
		if e.Watch != nil {
			e.Watch.Modify(connect.Events) // tells at once if there is room again
		}
	}
}

// copy moves bytes through our memory: urgent ones, which splice does not pass,
// and all when there is no descriptor for a pipe. What the peer does not take stays
// in the socket.
func (e *spliceEnd) copy() {
	b := e.s.r.scratchSpace()
	n, errno := call(unix.SYS_RECVFROM, e.FD, b, unix.MSG_PEEK)
	if n == 0 {
		e.ended(errno)
		return
	}
	n, errno = call(unix.SYS_SENDTO, e.peer.FD, b[:n], unix.MSG_NOSIGNAL)
	switch errno {
	case 0:
		e.count(n)
		for n > 0 && errno == 0 { // urgent bytes come by themselves
			var m int
			m, errno = call(unix.SYS_RECVFROM, e.FD, b[:n], 0)
			n -= m
		}
	case unix.EAGAIN:
		e.peer.full()
	case unix.EINTR:
	default:
		e.s.reset()
	}
}

func (e *spliceEnd) count(n int) {
	*e.moved += uint64(n)
	if n >= bulkPiece {
		e.s.r.shard.Bulk()
	}
	e.s.r.table.Used(e.s.record)
}

// reset passes a failure of one end on to the other. It does no harm to the end
// that has failed.
func (s *splice) reset() {
	connect.SetAbortiveClose(s.host.FD)
	connect.SetAbortiveClose(s.guest.FD)
	s.close()
}

func (s *splice) close() {
	s.r.table.Remove(s.record)
	s.End(flow.Closing)
	s.r.closeSparesLater()
}

// End implements flow.Owner.
func (s *splice) End(why flow.Reason) {
	s.closed = true
	s.r.spliced--
	for _, e := range [2]*spliceEnd{&s.host, &s.guest} {
		if why == flow.Evicted {
			connect.SetAbortiveClose(e.FD)
		}
		if e.carried != nil {
			e.linger(s.host.done && s.guest.done)
		}
		e.Close()
		if e.pipe != nil {
			s.r.givePipe(e.pipe)
			e.pipe = nil
		}
	}
}

// linger hands the socket on, since the last segments still need it.
func (e *spliceEnd) linger(inOrder bool) {
	socket := e.Release()
	if socket.Watch != nil {
		socket.Watch.Close()
	}
	e.s.r.linger(socket.FD, inOrder, e.carried)
}

// spliceBytes is splice(2). Zero bytes without an error are the end of the
// stream.
func spliceBytes(from, to, size int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(size), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// call is recvfrom(2) or sendto(2) without an address.
func call(trap uintptr, fd int, b []byte, flags uintptr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
