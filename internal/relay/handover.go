package relay

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/repair"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

const (
	// CarryAfter is how much a connection moves within carryWithin before it is handed
	// over, in bytes: a hand-over takes half a millisecond, as half a megabyte does.
	CarryAfter  = 1 << 20
	carryWithin = time.Second
	// turnCost is what a turn counts for, in bytes, besides what it moves. One costs on the
	// device 10 microseconds more than on the splice (rtt-go: 57 and 34 microseconds for a
	// round trip of two, 19 and 10 beside a busy program), so a hand-over is worth 50 of them;
	// a connection has had 256, in a second, when it is handed over for its turns alone.
	turnCost = 4 << 10
	// mostCarried bounds the connections that are carried, or about to be: the guest's
	// kernel checks a packet that has no route yet against one rule for each. Each also takes
	// a descriptor; at most one in carriedShare of all may be used for this.
	mostCarried  = 64
	carriedShare = 32
	// carryPatience is how long the host's bytes wait until nothing is in flight. A guest
	// that has read everything acknowledges it within 200 ms (TCP_DELACK_MAX).
	carryPatience = 300 * time.Millisecond
	// orderPatience is how long the agent may take for an order, which takes microseconds
	// unless it has been stopped.
	orderPatience = 2 * time.Second
)

// stage of a hand-over: what it waits for.
type stage uint8

const (
	wantSocket stage = iota // one in repair mode, from the agent
	wantAcks                // for all that was written to the guest; no more is written
	wantHold                // the guest's kernel to hold back what it would send
	wantQuiet               // all that the guest has sent to reach the host
	wantCarry               // the guest's kernel to take the other end; the connection is frozen from here on
	wantAnswer              // a segment of the guest to reach the other end
	wantBack                // the guest's kernel to send by the device again
	ended
)

// handover moves one connection off the device.
type handover struct {
	fl             *conn
	stage          stage
	held           bool // a rule holds back the guest's segments
	stuck          bool // and it cannot be removed
	fd             int  // the socket that will be the other end; -1: none yet
	guest, outside netip.AddrPort
	state          stack.Frozen // from wantCarry on
	timer          shard.Timer
	wait           time.Duration // for an answer
}

// pace is how much a connection costs on the device.
type pace struct {
	need  uint64 // in carryWithin, of what cost counts
	turns uint64
	from  uint64 // cost by since
	since time.Duration
	bytes uint64 // moved by since
}

// begin starts to measure a connection's pace, if it may be carried.
func (fl *conn) begin() {
	if r := fl.r; r.kernel != nil {
		if fl.kernel = r.kernel(fl.record.Src.Addr()); fl.kernel != nil {
			fl.pace.need, fl.pace.since = fl.kernel.After, r.shard.Now()
		}
	}
}

// busy counts a turn, and reports whether the connection moves enough, or often enough, to be
// handed over. The latter leave room for half of the former: what moves much gains most.
func (fl *conn) busy() bool {
	p, bytes := &fl.pace, fl.record.In+fl.record.Out
	p.turns++
	cost := bytes + turnCost*p.turns
	if cost-p.from < p.need {
		return false
	}
	now := fl.r.shard.Now()
	fast, bulk := now-p.since <= carryWithin || p.need == 0, bytes-p.bytes >= p.need/2
	if fast && !bulk && fl.r.carried >= fl.r.mostCarried/2 {
		return false // it may yet move enough within this second
	}
	p.from, p.since, p.bytes = cost, now, bytes
	return fast
}

// tendHandover begins a hand-over or advances it.
func (fl *conn) tendHandover() {
	switch {
	case fl.over != nil:
		fl.over.proceed()
	case !fl.busy():
	case fl.kernel.Agent == nil:
		fl.kernel.Start()
	case fl.mayLeave():
		fl.leave()
	}
}

// mayLeave reports whether the connection can be handed over.
func (fl *conn) mayLeave() bool {
	r := fl.r
	return fl.held == nil && !fl.ending() && r.carried < r.mostCarried && (r.stay == nil || !r.stay()) &&
		fl.kernel.Lo(fl.guest.RemoteAddr().Addr()).Free(r.shard.Now()) && isTCP(fl.host.FD)
}

// ending reports whether either side has begun to close; such a connection stays.
func (fl *conn) ending() bool { return fl.hostDone || fl.guestDone || fl.hostHangup }

func isTCP(fd int) bool {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return err == nil && protocol == unix.IPPROTO_TCP
}

// leave begins to hand the connection over.
func (fl *conn) leave() {
	h := &handover{fl: fl, fd: -1, guest: fl.guest.RemoteAddr(), outside: fl.guest.LocalAddr()}
	fl.over = h
	fl.r.carried++
	h.lo().Begin()
	fl.r.shard.Arm(&h.timer, orderPatience, h)
	h.want(h.probe)
}

func (h *handover) lo() *repair.Loopback { return h.fl.kernel.Lo(h.guest.Addr()) }

// want asks for a socket in repair mode.
func (h *handover) want(take func(fd int) (kept bool)) {
	h.fl.kernel.Agent.Repair(repair.Family(h.guest.Addr()), take)
}

// probe continues only if a socket of the namespace is the guest's end.
func (h *handover) probe(fd int) (kept bool) {
	if h.stage == ended {
		return false
	}
	if fd < 0 {
		h.giveUp()
		return false
	}
	occupied := repair.Occupied(fd, h.guest, h.outside)
	unix.Close(fd)
	if !occupied {
		h.giveUp()
		return true
	}
	h.want(h.takeSocket)
	return true
}

// takeSocket gets the socket that will be the other end.
func (h *handover) takeSocket(fd int) (kept bool) {
	if h.stage == ended {
		return false
	}
	if fd < 0 {
		h.giveUp()
		return false
	}
	h.fd = fd
	var at sockio.Addr
	at.Set(h.outside)
	if errno := sockio.Bind(fd, &at); errno != 0 {
		h.giveUp()
		return true
	}
	h.stage = wantAcks
	h.fl.guest.TellAcks(true)
	h.fl.r.shard.Arm(&h.timer, carryPatience, h)
	h.proceed()
	return true
}

// pausesHost reports whether the host's bytes wait.
func (h *handover) pausesHost() bool { return h != nil && h.stage >= wantAcks }

// frozen reports whether both directions wait.
func (h *handover) frozen() bool { return h != nil && h.stage >= wantCarry && h.stage < ended }

// proceed takes the next step if the connection is ready for it.
func (h *handover) proceed() {
	fl := h.fl
	switch {
	case h.stage > wantSocket && fl.ending():
		h.giveUp()
	case h.stage == wantAcks && fl.guest.Acknowledged():
		h.stage = wantHold
		fl.kernel.Agent.Hold(h.guest, h.outside, h.holds)
	case h.stage == wantQuiet:
		if f, ok := fl.guest.Freeze(); ok {
			h.state = f
			h.carry()
		}
	}
}

// holds is called when the guest's segments are held back. Earlier ones are on the device.
func (h *handover) holds(errno unix.Errno) {
	fl := h.fl
	switch {
	case h.stage == ended:
		if errno == 0 {
			h.held = true
			h.letGo()
		}
	case errno == unix.EPIPE:
		fl.abortGuest() // its segments may be held back, and nobody can release them
	case errno != 0:
		h.giveUp()
		fl.pump()
	default:
		h.held, h.stage = true, wantQuiet
		if fl.kernel.ReadAll != nil {
			fl.kernel.ReadAll()
		} else {
			fl.guest.ReadAll()
		}
		if h.stage == wantQuiet {
			fl.guestReadable = true
			fl.pump()
		}
	}
}

// carry has the guest's kernel take over the frozen connection.
func (h *handover) carry() {
	fl := h.fl
	if repair.Restore(h.fd, &h.state) != nil {
		fl.guest.Thaw()
		h.giveUp()
		return
	}
	// If we are killed, the guest must see a reset, not an end of stream.
	connect.SetAbortiveClose(h.fd)
	h.stage = wantCarry
	fl.r.shard.Arm(&h.timer, orderPatience, h)
	fl.kernel.Agent.Carry(h.guest, h.outside, h.fd, h.carries)
	h.letGo()
}

// letGo removes the rule that holds the guest's segments, if there is one; the guest's root may
// have done so before (ENOENT). Where that fails, nothing that the guest sends would arrive any
// more, and the connection is reset as soon as the caller is done with it. While the guest's
// kernel carries it, that rule comes first.
func (h *handover) letGo() {
	if !h.held {
		return
	}
	h.held = false
	r := h.fl.r
	h.fl.kernel.Agent.LetGo(h.guest, h.outside, func(errno unix.Errno) {
		if errno == 0 || errno == unix.ENOENT || h.fl.host.FD < 0 {
			return
		}
		h.stuck = true
		if h.stage != wantAnswer {
			r.shard.Arm(&h.timer, 0, h)
		}
	})
}

// carries is called when the guest's segments reach the socket.
func (h *handover) carries(errno unix.Errno) {
	fl := h.fl
	switch {
	case h.stage == ended:
		fl.kernel.Agent.Drop(h.guest, h.outside, -1, ignore)
	case errno == unix.EPIPE:
		fl.abortGuest()
	case errno != 0:
		fl.kernel.Agent.Drop(h.guest, h.outside, -1, ignore) // it may have failed halfway
		h.giveUp()
		fl.pump()
	default:
		h.stage, h.wait = wantAnswer, repair.AnswerFirst
		h.awaitAnswer()
	}
}

// awaitAnswer goes on when the guest has answered the socket. A guest whose lo is down, or
// that filters what passes it, never does.
func (h *handover) awaitAnswer() {
	switch {
	case repair.Answered(h.fd):
		h.finish()
	case h.wait < repair.AnswerPatience:
		h.fl.r.shard.Arm(&h.timer, h.wait, h)
		h.wait *= 2
	default:
		h.stage = wantBack
		h.lo().Fails(h.fl.r.shard.Now())
		h.fl.r.shard.Arm(&h.timer, orderPatience, h)
		h.fl.kernel.Agent.Drop(h.guest, h.outside, h.fd, h.goesBack)
	}
}

// goesBack is called when the guest's segments come by the device again. Nothing has been
// said to the guest and nothing was heard, so the connection goes on as it was.
func (h *handover) goesBack(errno unix.Errno) {
	switch {
	case h.stage == ended:
	case errno != 0, h.stuck, repair.Answered(h.fd): // the last: after all; what it has heard is lost
		h.fl.kernel.Agent.Drop(h.guest, h.outside, -1, ignore) // the order may have been refused
		h.fl.abortGuest()
	default:
		h.giveUp()
		h.fl.pump()
	}
}

// finish joins the two sockets.
func (h *handover) finish() {
	fl := h.fl
	h.stage = ended
	h.lo().Passes()
	fl.r.shard.Disarm(&h.timer)
	fl.r.table.Carried(true)
	// The guest may bind a server to the same port, as it may during TIME-WAIT.
	unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	host := fl.host.Release()
	host.Events = unix.EPOLLIN
	if fl.hostHangup {
		host.Events |= unix.EPOLLRDHUP
	}
	host.Watch.Modify(connect.Events)
	c := &carried{r: fl.r, agent: fl.kernel.Agent, conn: fl.guest, guest: h.guest, outside: h.outside}
	fl.guest.Leave(c.strayed)
	fl.r.join(host, connect.Socket{FD: h.fd}, fl.record, nil, c.ended)
}

// giveUp leaves the connection on the device. The next attempt needs twice as many bytes.
func (h *handover) giveUp() {
	h.abandon()
	h.fl.r.table.Carried(false)
	h.fl.over = nil
	h.fl.guest.TellAcks(false)
	h.fl.pace.need = max(2*h.fl.pace.need, CarryAfter)
}

// abandon frees what the hand-over holds.
func (h *handover) abandon() {
	if h.frozen() {
		h.fl.guest.Thaw()
	}
	routed := h.stage == wantAnswer
	h.stage = ended
	r := h.fl.r
	r.shard.Disarm(&h.timer)
	r.carried--
	h.lo().Ends()
	if h.fd >= 0 {
		unix.Close(h.fd)
		h.fd = -1
	}
	if routed {
		h.fl.kernel.Agent.Drop(h.guest, h.outside, -1, ignore)
	}
	h.letGo()
}

// Run implements shard.Task for the timer: there was no quiet moment, or the agent does not
// do what it is told, and nobody knows where the guest's segments go.
func (h *handover) Run() {
	switch fl := h.fl; {
	case fl.host.FD < 0: // it has ended, or left
	case h.stage == wantAnswer:
		h.awaitAnswer()
	case h.stuck, h.stage == wantCarry, h.stage == wantBack:
		fl.abortGuest()
	default:
		h.giveUp()
		fl.pump()
	}
}

func ignore(unix.Errno) {}
