package relay

import (
	"net/netip"
	"time"
)

const (
	// loFirst is how long no hand-over is tried after the guest's lo has not passed one, and
	// loMost how long at most when that goes on: each such attempt has the connection pause
	// for answerPatience.
	loFirst = time.Second
	loMost  = 5 * time.Minute
)

// loopback is what is known of the guest's lo for one address family. Until it has passed what
// a carried connection sends, one connection at a time finds out.
type loopback struct {
	works  bool
	trying int           // hand-overs under way
	again  time.Duration // when the next may be tried
	wait   time.Duration // after the last failure
}

// lo is that of a guest's address.
func (r *Relay) lo(guest netip.AddrPort) *loopback {
	if guest.Addr().Is6() {
		return &r.loopbacks[1]
	}
	return &r.loopbacks[0]
}

func (h *handover) lo() *loopback { return h.fl.r.lo(h.guest) }

// free reports whether a connection may be handed over now.
func (l *loopback) free(now time.Duration) bool {
	return l.works || l.trying == 0 && now >= l.again
}

// passes is called when a hand-over is done.
func (l *loopback) passes() {
	l.trying--
	l.works, l.wait = true, 0
}

// fails is called when a connection's segments were not answered. Those that were tried at the
// same time say no more than it does.
func (l *loopback) fails(now time.Duration) {
	if !l.works && now < l.again {
		return
	}
	l.works = false
	l.wait = min(max(2*l.wait, loFirst), loMost)
	l.again = now + l.wait
}
