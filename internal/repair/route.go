package repair

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// renewEvery is how soon a rule that is missing again is made again. The guest sends its
// segment again after 200 ms (TCP_RTO_MIN).
const renewEvery = 100 * time.Millisecond

// Route is the rule that leads a guest's segments to the socket that carries its connection.
type Route struct{ ordered time.Duration }

// Renew makes the rule again: a segment has come by the device. The guest may have flushed its
// rules (ip rule flush), as some of its network managers do with rules that they do not know.
func (r *Route) Renew(now time.Duration, a Agent, guest, outside netip.AddrPort) {
	if now-r.ordered >= renewEvery {
		r.ordered = now
		a.Carry(guest, outside, -1, func(unix.Errno) {})
	}
}
