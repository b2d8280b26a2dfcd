package dns

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// exchange is one query over UDP on its way.
type exchange struct {
	r        *Resolver
	query    []byte // as sent last: the id is the attempt's
	id       uint16 // the guest's
	from, to netip.AddrPort
	reply    Reply
	place    int // in Resolver.active
	done     bool
	look     int // number of the look at resolv.conf awaited; 0: none
	asked    [maxServers]attempt
	servers  int      // how many of asked there are, in the order of asking
	next     int      // counts on through both rounds
	last     *attempt // the one asked last
	kept     []byte   // a failure that a nameserver gave
	deadline time.Duration
	timer    shard.Timer
}

// attempt is one query to one nameserver.
type attempt struct {
	x     *exchange
	srv   *server
	sock  *socket // nil before the first send
	id    uint16
	sent  time.Duration
	probe bool // sent to learn whether a demoted server is back
	over  bool // has failed; not asked again
}

const (
	// spareExchanges are kept for the next queries, so that a steady stream of
	// them allocates nothing. A burst of more is left to the collector.
	spareExchanges = 64
	// spareQuery is the largest query whose buffer is kept, in bytes. Nearly
	// all are below 100.
	spareQuery = 512
)

// begin makes an exchange of a query that has come, one of those in flight.
func (r *Resolver) begin(query []byte, from, to netip.AddrPort, reply Reply) *exchange {
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
		query:    append(x.query[:0], query...),
		id:       binary.BigEndian.Uint16(query),
		from:     from,
		to:       to,
		reply:    reply,
		place:    len(r.active),
		deadline: r.shard.Now() + r.cfg.Timeout,
	}
	r.active = append(r.active, x)
	return x
}

// attempts are those of the exchange, in the order of asking.
func (x *exchange) attempts() []attempt { return x.asked[:x.servers] }

// start asks the first nameserver in favour, and beside it a demoted one whose
// time has come.
func (x *exchange) start() {
	l := &x.r.lookout
	if l.err != nil {
		x.giveUp()
		return
	}
	for _, demoted := range [...]bool{false, true} {
		for _, s := range l.servers {
			if s.udp.demoted == demoted && x.servers < len(x.asked) {
				x.asked[x.servers] = attempt{x: x, srv: s}
				x.servers++
			}
		}
	}
	now := x.r.shard.Now()
	if !x.asked[0].srv.udp.demoted {
		for i := range x.attempts() {
			a := &x.asked[i]
			if a.srv.udp.probe(now, 16*x.r.cfg.Demotion) {
				a.probe = true
				x.send(a)
				break
			}
		}
	}
	x.advance(false)
}

// advance asks the next nameserver, in two rounds. When there is none left it
// waits for those asked, but not if they all have failed; and for one more
// interval only if it has an answer to give meanwhile: waited tells that this
// interval is over.
func (x *exchange) advance(waited bool) {
	rounds := 2
	if x.kept != nil {
		rounds = 1
	}
	left := x.deadline - x.r.shard.Now()
	for x.next < rounds*x.servers {
		a := &x.asked[x.next%x.servers]
		x.next++
		if a.over {
			continue
		}
		if x.send(a) {
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
	return min(x.r.cfg.Retry, x.r.cfg.Timeout*7/10/time.Duration(x.servers))
}

func (x *exchange) hopeless() bool {
	for i := range x.attempts() {
		if !x.asked[i].over {
			return false
		}
	}
	return true
}

// send reports whether the query is on its way to a's nameserver; if not, a is
// over. It never waits: a datagram that does not fit the send buffer is lost, as
// it would be anywhere else on its way.
func (x *exchange) send(a *attempt) bool {
	if a.sock == nil || a.sock.fd < 0 {
		s, err := x.r.socketTo(a.srv)
		if err != nil {
			a.over = true
			x.r.demoteUDP(a.srv, err)
			return false
		}
		s.register(a)
	}
	a.sent = x.r.shard.Now()
	binary.BigEndian.PutUint16(x.query, a.id)
	errno := sockio.Send(a.sock.fd, x.query)
	if errno == 0 || errno == unix.EAGAIN || errno == unix.ENOBUFS {
		return true
	}
	a.over = true
	a.sock.forget(a)
	switch errno {
	case unix.EMSGSIZE: // the query's fault
	case unix.ECONNREFUSED: // the answer to an earlier query, and news for all on the socket
		a.sock.refused(errno)
	default:
		x.r.demoteUDP(a.srv, errno)
	}
	return false
}

// answered takes the answer m of a's nameserver, which is then of no more
// concern to the socket. m is overwritten after the call.
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

// Run implements shard.Task for the timer: the look at resolv.conf has taken or
// the nameserver asked last has been silent for an interval, or the whole
// exchange has lasted for the timeout.
func (x *exchange) Run() {
	now := x.r.shard.Now()
	if a := x.last; a != nil && !a.over && a.srv.udp.silent(a.sent, now, x.r.cfg.Demotion) {
		x.r.tellDemoted(a.srv, "udp", "no answer")
	}
	switch {
	case now >= x.deadline:
		x.giveUp()
	case x.look == 0:
		x.advance(true)
	case x.r.lookout.known:
		// The file system hangs; what the file said is the best guess.
		x.r.lookout.unwait(x)
		x.start()
	default:
		x.arm(x.deadline - now)
	}
}

// drop ends the exchange without an answer.
func (x *exchange) drop() {
	x.done = true
	x.r.shard.Disarm(&x.timer)
	if x.look != 0 {
		x.r.lookout.unwait(x)
	}
	last := len(x.r.active) - 1
	moved := x.r.active[last]
	x.r.active[x.place], moved.place = moved, x.place
	x.r.active[last] = nil
	x.r.active = x.r.active[:last]
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

// finish ends the exchange with the answer m. The exchange may be another one
// afterwards. A probe goes on waiting in its socket: its answer is news of the
// nameserver, late or not.
func (x *exchange) finish(m []byte) {
	x.drop()
	spare := len(x.r.spare) < spareExchanges && cap(x.query) <= spareQuery
	for i := range x.attempts() {
		switch a := &x.asked[i]; {
		case a.probe:
			spare = false
		case a.sock != nil:
			a.sock.forget(a)
		}
	}
	reply, from, to := x.reply, x.from, x.to
	if spare {
		x.r.spare = append(x.r.spare, x)
	}
	reply(from, to, m)
}
