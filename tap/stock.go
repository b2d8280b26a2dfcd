package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stockMax sockets of each family are held, or fewer where descriptors are
	// scarce: one in stockShare of them.
	stockMax   = 32
	stockShare = 32
	// datagramStock UDP sockets of each family are held where UDP is used at all: new
	// clients come one by one.
	datagramStock = 2
	// topUp is when a stock that is more than half full is filled up, so that an idle
	// program always holds the same. An agent that had none to give, because descriptors
	// had run out, is asked again after as long.
	topUp = 100 * time.Millisecond
	// silence is how long an agent may take to answer. An answer takes a
	// millisecond, unless the guest's root has stopped the agent.
	silence = time.Second
	// maxWaiting bounds the clients that wait for a socket of one family.
	maxWaiting = 4096
)

// Indexes of UDP sockets among the stocks, and of those that take connections over; v4 and v6
// are those of TCP.
const (
	datagrams4 = 4 + iota
	datagrams6
	repair4
)

// stock is the sockets of one kind.
type stock struct {
	family      int
	flags       byte // orderPlain, orderDatagrams
	size        int  // how many are held; more are ordered on request
	transparent bool
	ready       []int
	waiting     []func(fd int) (kept bool) // only while there are none ready
	ordered     int                        // sockets on their way
	orderedAt   time.Duration
	resting     bool // the agent had none to give a moment ago
	absent      bool // the kernel does not have the family
}

func stockSize() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return stockMax
	}
	return int(max(1, min(stockMax, limit.Cur/stockShare)))
}

// Socket calls take with a non-blocking, close-on-exec TCP socket of a family,
// AF_INET or AF_INET6, that is neither bound nor connected: at once if one is in
// stock, else when the agent has answered. fd is -1 if none is available. take
// reports whether it kept the socket, which otherwise goes back into stock.
//
// An agent that has been stopped may never answer, and after Close there is no
// answer: the caller must have a timer.
func (a *Agent) Socket(family int, take func(fd int) (kept bool)) {
	a.take(&a.stocks[familyIndex(family)], take)
}

// Datagrams is Socket for a UDP socket on which nothing is set: see Plain.
func (a *Agent) Datagrams(family int, take func(fd int) (kept bool)) {
	a.take(a.stockOf(byte(family)|orderPlain|orderDatagrams), take)
}

func (a *Agent) take(s *stock, take func(fd int) (kept bool)) {
	switch {
	case len(s.ready) > 0:
		s.give(take)
	case a.sock < 0, s.absent, s.resting, a.silent(s), len(s.waiting) == maxWaiting:
		take(-1)
		return
	default:
		s.waiting = append(s.waiting, take)
	}
	a.tend(s)
}

// silent reports whether an answer is long overdue.
func (a *Agent) silent(s *stock) bool {
	return s.ordered > 0 && a.shard.Now()-s.orderedAt > silence
}

// tend orders the sockets that the stock lacks: now if half of it is gone, else soon.
func (a *Agent) tend(s *stock) {
	if a.short(s) <= 0 || len(s.ready) <= s.size/2 && !s.resting && a.order(s) {
		return
	}
	if !a.shard.Armed(&a.timer) {
		a.shard.Arm(&a.timer, topUp, a)
	}
}

// Run implements shard.Task for the timer.
func (a *Agent) Run() {
	for f := range a.stocks {
		s := &a.stocks[f]
		s.resting = false
		a.order(s)
	}
}

// short is how many sockets may be ordered: none while some are on their way.
func (a *Agent) short(s *stock) int {
	if a.sock < 0 || s.absent || s.ordered > 0 {
		return 0
	}
	return max(s.size, min(len(s.waiting), maxSockets)) - len(s.ready)
}

func (a *Agent) order(s *stock) bool {
	n := a.short(s)
	if n <= 0 || unix.Sendto(a.sock, []byte{byte(s.family) | s.flags, byte(n), a.tag[0], a.tag[1]}, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, nil) != nil {
		return false // an agent that is gone is reported by an event
	}
	s.ordered, s.orderedAt = n, a.shard.Now()
	return true
}

// Ready implements shard.Handler: the agent has answered, or is gone.
func (a *Agent) Ready(uint32) {
	msg, fds, err := receiveMessage(a.sock, reportLen+1, maxSockets, unix.MSG_DONTWAIT)
	if err == unix.EAGAIN || err == unix.ECONNRESET {
		return // ECONNRESET precedes the report of an agent that left orders unread
	}
	var s *stock
	if err == nil {
		a.sendRest()
		s, err = a.accept(msg, fds)
	}
	if err == nil && s == nil {
		a.changed(msg)
		return
	}
	if err == errStale {
		closeAll(fds)
		return
	}
	if err != nil {
		closeAll(fds)
		a.end(err)
		return
	}
	s.ordered = 0
	s.ready = append(s.ready, fds...)
	for len(s.waiting) > 0 && len(s.ready) > 0 {
		take := s.waiting[0]
		s.waiting[0] = nil // it holds its client
		s.waiting = s.waiting[1:]
		s.give(take)
	}
	s.trim()
	if s.resting = len(fds) == 0; s.resting {
		s.refuse()
	}
	a.tend(s)
}

// errStale is the error of an answer to a predecessor's order.
var errStale = errors.New("receive sockets: nobody waits for these any more")

// accept checks that a message answers an order of ours, and returns the stock that its
// sockets are for, nil for an order about a rule.
func (a *Agent) accept(msg []byte, fds []int) (*stock, error) {
	switch {
	case len(msg) == 0 && a.process != nil && a.process.failed != nil:
		return nil, a.process.failed
	case len(msg) == 0:
		return nil, errSilent
	case len(msg) != reportLen:
		return nil, errors.New("receive sockets: no answer of ours")
	case msg[0] != 0:
		return nil, reported(msg, a.join())
	case [2]byte(msg[2:4]) != a.tag:
		return nil, errStale
	case msg[1] == orderRule && len(fds) == 0:
		return nil, nil
	}
	s := a.stockOf(msg[1])
	if s == nil || len(fds) > s.ordered {
		return nil, errors.New("receive sockets: more came than were ordered")
	}
	for _, fd := range fds {
		if err := a.check(fd, s); err != nil {
			return nil, fmt.Errorf("receive sockets: %w", err)
		}
	}
	switch errno := unix.Errno(binary.LittleEndian.Uint16(msg[4:])); errno {
	case 0, unix.EMFILE, unix.ENFILE, unix.ETOOMANYREFS, unix.ENOMEM, unix.ENOBUFS: // temporary
	default:
		// A kernel without IPv6, say: the other family goes on.
		s.absent = errno == unix.EAFNOSUPPORT
		a.log.Debug("no sockets of this family", "family", s.family, "error", errno)
	}
	return s, nil
}

// stockOf is the stock that an order and its answer are for, nil if there is none.
func (a *Agent) stockOf(code byte) *stock {
	for i := range a.stocks {
		if s := &a.stocks[i]; code == byte(s.family)|s.flags {
			return s
		}
	}
	return nil
}

// give takes a socket out of stock, for a client that may have gone.
func (s *stock) give(take func(fd int) (kept bool)) {
	last := len(s.ready) - 1
	fd := s.ready[last]
	s.ready = s.ready[:last]
	if !take(fd) {
		s.ready = append(s.ready, fd)
	}
}

// trim closes what the stock has beyond its size, because clients have gone.
func (s *stock) trim() {
	if len(s.ready) > s.size {
		closeAll(s.ready[s.size:])
		s.ready = s.ready[:s.size]
	}
}

// refuse tells the waiting clients that there are no sockets.
func (s *stock) refuse() {
	waiting := s.waiting
	s.waiting = nil
	for _, take := range waiting {
		take(-1)
	}
}
