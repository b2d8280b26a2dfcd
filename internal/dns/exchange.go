package dns

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"epiphyte/internal/shard"
)

// exchange is one query in progress, over either transport.
type exchange struct {
	r        *Resolver
	via      transport
	query    []byte // over UDP with the id of the last attempt
	id       uint16 // the guest's
	from, to netip.AddrPort
	reply    Reply
	done     bool
	attempts []attempt // in the order of asking; backed by room
	room     [maxServers]attempt
	next     int      // counts on through both rounds
	last     *attempt // the one asked last
	kept     []byte   // the first failure that a nameserver answered with
	deadline time.Duration
	timer    shard.Timer
}

// attempt is the query to one nameserver.
type attempt struct {
	x     *exchange
	srv   *server
	sent  time.Duration
	probe bool // sent to learn whether a demoted server is back
	over  bool // has failed; not asked again

	sock   *socket            // UDP: of the last send; nil before the first
	before *socket            // UDP: of the send before, if it was another
	id     uint16             // UDP
	cancel context.CancelFunc // TCP: nil before the send
}

const (
	// spareExchanges are kept for the next queries over UDP, so that a steady
	// stream allocates nothing. The collector takes the rest of a burst.
	spareExchanges = 64
	// spareQuery is the largest query whose buffer is kept, in bytes. Nearly
	// all are below 100.
	spareQuery = 512
)

// begin makes an exchange for a query.
func (r *Resolver) begin(via transport, query []byte, from, to netip.AddrPort, reply Reply) *exchange {
	var x *exchange
	if last := len(r.spare) - 1; last >= 0 {
		x = r.spare[last]
		r.spare[last] = nil
		r.spare = r.spare[:last]
	} else {
		x = new(exchange)
	}
	*x = exchange{
		r:        r,
		via:      via,
		query:    append(x.query[:0], query...),
		id:       binary.BigEndian.Uint16(query),
		from:     from,
		to:       to,
		reply:    reply,
		deadline: r.shard.Now() + r.cfg.Timeout,
	}
	r.inFlight++
	return x
}

// start orders the nameservers and asks the first one in favour, and also a
// demoted one that is due for a probe.
func (x *exchange) start() {
	x.attempts = x.room[:0]
	for _, demoted := range [...]bool{false, true} {
		for _, s := range x.r.servers {
			if s.health[x.via].demoted == demoted {
				x.attempts = append(x.attempts, attempt{x: x, srv: s})
			}
		}
	}
	if len(x.attempts) > 0 && !x.attempts[0].srv.health[x.via].demoted {
		x.probe()
	}
	x.advance(false)
}

func (x *exchange) probe() {
	for i := range x.attempts {
		a := &x.attempts[i]
		if a.srv.health[x.via].probe(x.r.shard.Now(), 16*x.r.cfg.Demotion) {
			a.probe = true
			x.send(a)
			return
		}
	}
}

// advance asks the next nameserver, over UDP in two rounds. When none is left it
// waits for those asked until the deadline, or for one more interval if there is
// a kept answer to give; waited says that an interval has passed. It does not wait
// if all have failed.
func (x *exchange) advance(waited bool) {
	rounds := 2
	if x.kept != nil || x.via == tcp {
		rounds = 1
	}
	left := x.deadline - x.r.shard.Now()
	for x.next < rounds*len(x.attempts) {
		a := &x.attempts[x.next%len(x.attempts)]
		x.next++
		if !a.over && x.send(a) {
			x.last = a
			x.arm(min(x.interval(), left))
			return
		}
	}
	switch {
	case x.hopeless() || waited && x.kept != nil:
		x.giveUp()
	case x.kept != nil:
		x.arm(min(x.interval(), left))
	default:
		x.arm(left)
	}
}

// interval spreads the first round over at most 7/10 of the timeout.
func (x *exchange) interval() time.Duration {
	return min(x.r.cfg.Retry, x.r.cfg.Timeout*7/10/time.Duration(len(x.attempts)))
}

func (x *exchange) hopeless() bool {
	for i := range x.attempts {
		if !x.attempts[i].over {
			return false
		}
	}
	return true
}

// send reports whether the query is on its way to a's nameserver; if not, a is
// over.
func (x *exchange) send(a *attempt) bool {
	a.sent = x.r.shard.Now()
	if x.via == tcp {
		x.r.sendTCP(a)
	} else {
		a.over = !x.r.sendUDP(a)
	}
	return !a.over
}

// answered takes the answer m of a's nameserver, for which the transport no
// longer waits. m is overwritten after the call.
func (x *exchange) answered(a *attempt, m []byte) {
	a.srv.health[x.via].answer(x.r.shard.Now())
	if x.done {
		return
	}
	binary.BigEndian.PutUint16(m, x.id)
	if !isFailure(m) {
		x.r.stats.Answered++
		x.finish(m)
		return
	}
	if x.kept == nil {
		x.kept = append([]byte(nil), m...)
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
		x.advance(false)
	case x.hopeless():
		x.giveUp()
	}
}

func (x *exchange) arm(d time.Duration) { x.r.shard.Arm(&x.timer, d, x) }

// Run implements shard.Task for the timer: the nameserver asked last has been
// silent for an interval, or the exchange has lasted for the timeout.
func (x *exchange) Run() {
	now := x.r.shard.Now()
	if a := x.last; a != nil && !a.over && a.srv.health[x.via].answered <= a.sent {
		// An answer to another query would show that the nameserver is slow
		// with one name, not dead.
		x.r.demote(a.srv, x.via, "no answer")
	}
	if now >= x.deadline {
		x.giveUp()
		return
	}
	x.advance(true)
}

// giveUp answers with what a nameserver said, or with SERVFAIL.
func (x *exchange) giveUp() {
	x.r.stats.Failed++
	if x.kept != nil {
		x.finish(x.kept)
		return
	}
	x.finish(servFail(x.query, x.id))
}

// finish ends the exchange with the answer m. The exchange may be reused afterwards,
// but not over TCP, where goroutines may still refer to it. A probe goes on: even a
// late answer shows that the nameserver is back.
func (x *exchange) finish(m []byte) {
	r := x.r
	x.done = true
	r.shard.Disarm(&x.timer)
	r.inFlight--
	spare := x.via == udp && len(r.spare) < spareExchanges && cap(x.query) <= spareQuery
	for i := range x.attempts {
		switch a := &x.attempts[i]; {
		case a.probe:
			spare = false
		case a.sock != nil:
			a.forget()
		case a.cancel != nil:
			a.cancel()
		}
	}
	reply, from, to := x.reply, x.from, x.to
	if spare {
		r.spare = append(r.spare, x)
	}
	reply(from, to, m)
}
