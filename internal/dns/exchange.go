package dns

import (
	"encoding/binary"
	"time"
)

// exchange is one query over UDP on its way. All of it is guarded by
// Resolver.mu once it has left the inbox.
type exchange struct {
	r        *Resolver
	query    []byte // as sent last: the id is the attempt's
	id       uint16 // the guest's
	reply    func([]byte)
	attempts []*attempt // in the order of asking, one for each nameserver
	next     int        // counts on through both rounds
	last     *attempt   // the one asked last
	kept     []byte     // a failure that a nameserver gave
	deadline time.Time
	timer    *time.Timer
	armed    int // how often, to tell a stale timer from the present one
	done     bool
}

// attempt is one query to one nameserver.
type attempt struct {
	x     *exchange
	srv   *server
	sock  *socket // nil before the first send
	id    uint16
	sent  time.Time
	probe bool // sent to learn whether a demoted server is back
	over  bool // has failed; not asked again
}

func newExchange(r *Resolver, query []byte, reply func([]byte)) *exchange {
	return &exchange{
		r:     r,
		query: append([]byte(nil), query...),
		id:    binary.BigEndian.Uint16(query),
		reply: reply,
	}
}

// start asks the first nameserver, and beside it a demoted one whose time has
// come.
func (x *exchange) start(servers []*server) {
	if x.r.closed {
		return
	}
	x.r.active[x] = struct{}{}
	now := x.r.now()
	x.deadline = now.Add(x.r.cfg.Timeout)
	order := preferred(servers, overUDP)
	x.attempts = make([]*attempt, len(order))
	for i, s := range order {
		x.attempts[i] = &attempt{x: x, srv: s}
	}
	x.advance(now, false)
	if x.done || order[0].udp.demoted {
		return
	}
	for _, a := range x.attempts {
		if a.sock == nil && a.srv.udp.probe(now, 16*x.r.cfg.Demotion) {
			a.probe = true
			x.send(a, now)
			return
		}
	}
}

// advance asks the next nameserver, in two rounds. When there is none left it
// waits for those asked, but not if they all have failed; and for one more
// interval only if it has an answer to give meanwhile: waited tells that this
// interval is over.
func (x *exchange) advance(now time.Time, waited bool) {
	rounds := 2
	if x.kept != nil {
		rounds = 1
	}
	for x.next < rounds*len(x.attempts) {
		a := x.attempts[x.next%len(x.attempts)]
		x.next++
		if a.over {
			continue
		}
		if x.send(a, now) {
			x.last = a
			x.arm(min(x.interval(), x.deadline.Sub(now)))
			return
		}
	}
	switch {
	case x.hopeless() || waited && x.kept != nil:
		x.giveUp()
	case x.kept != nil:
		x.arm(min(x.interval(), x.deadline.Sub(now)))
	default:
		x.arm(x.deadline.Sub(now))
	}
}

// interval spreads the first round over at most 7/10 of the timeout.
func (x *exchange) interval() time.Duration {
	return min(x.r.cfg.Retry, x.r.cfg.Timeout*7/10/time.Duration(len(x.attempts)))
}

func (x *exchange) hopeless() bool {
	for _, a := range x.attempts {
		if !a.over {
			return false
		}
	}
	return true
}

// send reports whether the query is on its way to a's nameserver; if not, a is
// over.
func (x *exchange) send(a *attempt, now time.Time) bool {
	if a.sock == nil || a.sock.closed {
		s, err := x.r.socketTo(a.srv, now)
		if err != nil {
			a.over = true
			if a.srv.udp.failed(now, x.r.cfg.Demotion) {
				x.r.tellDemoted(a.srv, "udp", err.Error(), now)
			}
			return false
		}
		s.register(a)
	}
	a.sent = now
	binary.BigEndian.PutUint16(x.query, a.id)
	if err := a.sock.send(x.query); err != nil {
		a.over = true
		a.sock.forget(a)
		if a.srv.udp.failed(now, x.r.cfg.Demotion) {
			x.r.tellDemoted(a.srv, "udp", err.Error(), now)
		}
		return false
	}
	return true
}

// answered takes the answer m of a's nameserver, which is then of no more
// concern to the socket.
func (x *exchange) answered(a *attempt, m []byte) {
	if x.done {
		return
	}
	binary.BigEndian.PutUint16(m, x.id)
	if !isFailure(m) {
		x.finish(m)
		return
	}
	if x.kept == nil {
		x.kept = m
	}
	x.failed(a)
}

// failed goes on to the next nameserver if a was the one being waited for.
func (x *exchange) failed(a *attempt) {
	if x.done {
		return
	}
	a.over = true
	switch {
	case a == x.last:
		x.advance(x.r.now(), false)
	case x.hopeless():
		x.giveUp()
	}
}

// arm sets the timer; one set before no longer counts, even if it has fired and
// waits for the lock.
func (x *exchange) arm(d time.Duration) {
	x.disarm()
	armed := x.armed
	x.r.running.Add(1)
	x.timer = time.AfterFunc(d, func() {
		defer x.r.running.Done()
		x.r.mu.Lock()
		defer x.r.unlock()
		if armed == x.armed {
			x.expire()
		}
	})
}

func (x *exchange) disarm() {
	x.armed++
	if x.timer != nil && x.timer.Stop() {
		x.r.running.Done()
	}
}

// expire runs when the nameserver asked last has been silent for an interval,
// or the whole exchange for the timeout.
func (x *exchange) expire() {
	now := x.r.now()
	a := x.last
	if a != nil && !a.over && a.srv.udp.silent(a.sent, now, x.r.cfg.Demotion) {
		x.r.tellDemoted(a.srv, "udp", "no answer", now)
	}
	if !now.Before(x.deadline) {
		x.giveUp()
		return
	}
	x.advance(now, true)
}

// drop ends the exchange without an answer.
func (x *exchange) drop() {
	x.done = true
	x.disarm()
	delete(x.r.active, x)
}

// giveUp answers with what a nameserver said, or with SERVFAIL.
func (x *exchange) giveUp() {
	if x.kept != nil {
		x.finish(x.kept)
		return
	}
	binary.BigEndian.PutUint16(x.query, x.id)
	x.finish(servFail(x.query))
}

// finish ends the exchange with the answer m, which the guest gets when the
// lock is released. A probe goes on waiting in its socket: its answer is news
// of the nameserver, late or not.
func (x *exchange) finish(m []byte) {
	if x.done {
		return
	}
	x.drop()
	for _, a := range x.attempts {
		if a.sock != nil && !a.probe {
			a.sock.forget(a)
		}
	}
	x.r.inFlight.Add(-1)
	x.r.finished = append(x.r.finished, finished{x.reply, m})
}
