package bypass

import (
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/bridge"
	"epiphyte/internal/connect"
	"epiphyte/internal/repair"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

const (
	// ackPatience is how long the sender is held until the other member has acknowledged all
	// of it, which takes 200 ms at most (TCP_DELACK_MAX).
	ackPatience = 300 * time.Millisecond
	// orderPatience is how long agents may take for an order, and a member whose lo is known to
	// work for an answer. Either takes microseconds, unless the agent has been stopped or the
	// machine is busy.
	orderPatience = 2 * time.Second
	// beyond is added to the sequence number from which a socket takes data that is to take
	// none: more than any window, and less than half of all numbers.
	beyond = 1 << 30
)

// stage of a hand-over: what it waits for.
type stage uint8

const (
	wantSockets stage = iota
	wantHold          // the sender's kernel to hold its segments
	wantAcks          // the receiver to acknowledge all
	wantSecond        // the receiver's kernel to hold its segments
	wantCarry         // a kernel's segments to be routed to the socket
	wantAnswer        // a segment of it to reach the socket
	wantBack          // the kernels' segments to go by the bridge again
	ended
)

// handover moves one connection. Arrays are indexed like the connection's ends.
type handover struct {
	m       *Manager
	conn    *bridge.Conn
	pair    Pair
	members [2]*Member
	stage   stage
	probed  [2]bool
	fds     [2]int          // -1: none yet
	frozen  [2]stack.Frozen // from wantCarry on
	held    [2]bool
	routed  [2]bool
	current int  // the member whose kernel or socket is waited for; at first the one that sends more
	backing int  // answers that wantBack waits for
	proof   bool // the sockets are to be answered, and take no data
	timer   shard.Timer
	wait    time.Duration // for an answer
}

func (h *handover) lo(i int) *repair.Loopback { return h.members[i].Kernel.Lo(h.pair[i].Addr()) }

func (h *handover) begin() {
	h.m.trying[h] = struct{}{}
	for i := range h.members {
		h.lo(i).Begin()
	}
	h.conn.Await(h.proceed)
	h.m.cfg.Shard.Arm(&h.timer, orderPatience, h)
	h.gather()
}

// gather asks for what is missing: of each member a socket that says whether the connection can
// be continued, and one that will.
func (h *handover) gather() {
	family := repair.Family(h.pair[0].Addr())
	for i, member := range h.members {
		switch {
		case !h.probed[i]:
			member.Kernel.Agent.Repair(family, func(fd int) bool { return h.probe(i, fd) })
			return
		case h.fds[i] < 0:
			member.Kernel.Agent.Repair(family, func(fd int) bool { return h.takeSocket(i, fd) })
			return
		}
	}
	h.hold(wantHold)
}

// lacks reports whether there is no use for fd: the hand-over has ended, as it does when an agent
// has no socket to give (-1).
func (h *handover) lacks(fd int) bool {
	if h.stage != ended && fd < 0 {
		h.giveUp()
	}
	return h.stage == ended
}

func (h *handover) probe(i, fd int) (kept bool) {
	if h.lacks(fd) {
		return false
	}
	h.probed[i] = repair.Occupied(fd, h.pair[i], h.pair[1-i])
	unix.Close(fd)
	if !h.probed[i] {
		h.giveUp()
		return true
	}
	h.gather()
	return true
}

func (h *handover) takeSocket(i, fd int) (kept bool) {
	if h.lacks(fd) {
		return false
	}
	h.fds[i] = fd
	var at sockio.Addr
	at.Set(h.pair[1-i])
	if sockio.Bind(fd, &at) != 0 {
		h.giveUp()
		return true
	}
	h.gather()
	return true
}

// hold has the current member's kernel hold its segments.
func (h *handover) hold(s stage) {
	h.stage = s
	i := h.current
	h.members[i].Kernel.Agent.Hold(h.pair[i], h.pair[1-i], func(errno unix.Errno) { h.holds(i, errno) })
}

// holds is called when a member's segments are held back. Earlier ones are at its port.
func (h *handover) holds(i int, errno unix.Errno) {
	h.held[i] = errno == 0
	switch {
	case h.stage == ended:
		h.letGo(i)
		return
	case errno != 0:
		h.giveUp()
		return
	}
	h.conn.Port(i).ReadAll()
	switch h.stage {
	case wantHold:
		h.stage = wantAcks
		h.m.cfg.Shard.Arm(&h.timer, ackPatience, h)
		h.proceed()
	case wantSecond:
		h.restore()
	}
}

// proceed is called after each segment, and when the connection is no longer followed.
func (h *handover) proceed() {
	switch {
	case h.stage < wantCarry && h.conn.Ending():
		h.giveUp()
	case h.stage == wantAcks && h.conn.Acknowledged(h.current):
		h.current = 1 - h.current
		h.m.cfg.Shard.Arm(&h.timer, orderPatience, h)
		h.hold(wantSecond)
	}
}

// restore has both sockets continue the connection.
func (h *handover) restore() {
	h.conn.Freeze()
	h.proof = !h.lo(0).Works() && !h.lo(1).Works()
	for i, fd := range h.fds {
		f, ok := h.conn.Frozen(i)
		if h.proof {
			f.RecvNext += beyond
		}
		if !ok || repair.Restore(fd, &f) != nil {
			h.giveUp()
			return
		}
		h.frozen[i] = f
		// If its process is killed, the member must see a reset, not an end of stream.
		connect.SetAbortiveClose(fd)
	}
	if h.lo(h.current).Works() {
		h.current = 1 - h.current // the one of which less is known
	}
	h.carry()
}

// carry has the current member's segments reach its socket, by a rule that comes before the one
// that holds them.
func (h *handover) carry() {
	h.stage = wantCarry
	i := h.current
	h.members[i].Kernel.Agent.Carry(h.pair[i], h.pair[1-i], h.fds[i], func(errno unix.Errno) { h.carries(i, errno) })
}

func (h *handover) carries(i int, errno unix.Errno) {
	h.routed[i] = true // or halfway
	switch {
	case h.stage == ended:
		h.drop(i)
	case errno != 0:
		h.goBack()
	case !h.proof && repair.Resume(h.fds[i], &h.frozen[i]) != nil:
		h.goBack()
	default:
		h.letGo(i)
		h.stage, h.wait = wantAnswer, repair.AnswerFirst
		h.awaitAnswer()
	}
}

// awaitAnswer goes on when the current member has answered its socket: one whose lo is down, or
// filters what passes it, never does. Then it is the other one's turn. Where nothing was known of
// either's lo that is for another time, since what the first one sends meanwhile might be lost:
// the second one's is always known to work, so an answer of that one is only late.
func (h *handover) awaitAnswer() {
	patience := repair.AnswerPatience
	if h.lo(h.current).Works() {
		patience = orderPatience
	}
	switch i := h.current; {
	case !repair.Answered(h.fds[i]):
		if h.wait < patience {
			h.m.cfg.Shard.Arm(&h.timer, h.wait, h)
			h.wait *= 2
			return
		}
		h.lo(i).Fails(h.m.cfg.Shard.Now())
		h.goBack()
	case h.routed[1-i]:
		h.finish()
	case h.proof:
		h.lo(i).Answers()
		h.goBack()
	default:
		h.lo(i).Answers()
		h.current = 1 - i
		h.m.cfg.Shard.Arm(&h.timer, orderPatience, h)
		h.carry()
	}
}

// goBack has the members' segments go by the bridge again. Sockets that have said and heard
// nothing are closed in silence; else the connection is reset, since what one has heard is lost.
func (h *handover) goBack() {
	h.stage = wantBack
	h.m.cfg.Shard.Arm(&h.timer, orderPatience, h)
	for i, fd := range h.fds {
		if heard(fd) {
			h.giveUp() // resets
			return
		}
		if h.routed[i] {
			h.backing++
		}
	}
	for i, fd := range h.fds {
		if h.routed[i] {
			h.members[i].Kernel.Agent.Drop(h.pair[i], h.pair[1-i], fd, func(errno unix.Errno) { h.goesBack(i, errno) })
		}
	}
}

// goesBack is called when a member's segments go by the bridge again.
func (h *handover) goesBack(i int, errno unix.Errno) {
	h.backing--
	if h.stage == ended {
		return
	}
	h.routed[i] = errno != 0
	if heard(h.fds[i]) { // after all; the other one would wait for it in vain
		h.resetBy(i)
	}
	if h.backing == 0 {
		h.giveUp()
	}
}

// resetBy has a socket that is in repair mode again reset its member's end.
func (h *handover) resetBy(i int) {
	fd := h.fds[i]
	h.fds[i] = -1
	agent := h.members[i].Kernel.Agent
	agent.Carry(h.pair[i], h.pair[1-i], fd, func(unix.Errno) {
		unix.Close(fd)
		h.drop(i)
	})
}

// heard reports whether a socket has received data, an end of stream or a reset.
func heard(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && (info.Bytes_received > 0 || info.State != unix.BPF_TCP_ESTABLISHED)
}

// finish hands the two sockets to a client.
func (h *handover) finish() {
	h.stage = ended
	delete(h.m.trying, h)
	h.m.cfg.Shard.Disarm(&h.timer)
	for i, fd := range h.fds {
		h.lo(i).Passes()
		// The member may bind a server to the same port, as it may during TIME-WAIT.
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	c := &carried{conn: h.conn, pair: h.pair, members: h.members}
	h.m.carried[h.pair] = c
	h.conn.Leave(func(i int) { h.m.renew(c, i) })
	c.members[0].Take(h.pair, h.fds)
}

// giveUp leaves the connection on the bridge, if it is still there.
func (h *handover) giveUp() {
	h.stage = ended
	delete(h.m.trying, h)
	h.m.cfg.Shard.Disarm(&h.timer)
	h.conn.Stay()
	for i, fd := range h.fds {
		h.lo(i).Ends()
		if fd >= 0 {
			unix.Close(fd)
		}
		if h.routed[i] {
			h.drop(i)
		}
		h.letGo(i)
	}
}

// letGo removes the rule that holds a member's segments, if there is one.
func (h *handover) letGo(i int) {
	if h.held[i] {
		h.held[i] = false
		h.members[i].Kernel.Agent.LetGo(h.pair[i], h.pair[1-i], ignore)
	}
}

func (h *handover) drop(i int) {
	h.members[i].Kernel.Agent.Drop(h.pair[i], h.pair[1-i], -1, ignore)
}

// Run implements shard.Task for the timer: an answer is late.
func (h *handover) Run() {
	if h.stage == wantAnswer {
		h.awaitAnswer()
	} else {
		h.giveUp()
	}
}
