package relay

import (
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
)

const (
	// RFC 9293 section 3.8.4 has keepalive off by default and above two hours;
	// a helper that lives as long as its container would gather the flows of
	// peers that vanished meanwhile. Probes cost one segment each.
	keepaliveIdle     = 5 * time.Minute
	keepaliveInterval = time.Minute

	// Once one side has closed its direction it may have closed the socket, and
	// then Linux forgets it after 60 s in FIN-WAIT-2 and answers the next probe
	// with a RST; one that was only shut down keeps answering. So a peer that
	// never closes does not keep a flow for ever.
	halfClosedIdle     = 65 * time.Second
	halfClosedInterval = 15 * time.Second

	// keepaliveDelay is how long connections are left alone at first: six
	// calls for each were 2 % of the cost of a short connection
	// (make bench ROWS=connect-16).
	keepaliveDelay = 10 * time.Second
)

// keepalive says how far the probing of a connection has been set up.
type keepalive uint8

const (
	keepaliveOff keepalive = iota
	keepaliveOpen
	keepaliveHalfClosed
)

// times returns how long a connection is idle before it is probed, and how long
// from probe to probe.
func (k keepalive) times() (idle, interval time.Duration) {
	if k == keepaliveHalfClosed {
		return halfClosedIdle, halfClosedInterval
	}
	return keepaliveIdle, keepaliveInterval
}

// keepaliveLater has the keepalive of all connections brought up to date soon.
func (r *Relay) keepaliveLater() {
	if !r.shard.Armed(&r.keepalive) {
		r.shard.Arm(&r.keepalive, keepaliveDelay, shard.TaskFunc(r.updateKeepalive))
	}
}

func (r *Relay) updateKeepalive() {
	update := func(f *flow.Flow) {
		if c, ok := f.Owner.(interface{ updateKeepalive() }); ok {
			c.updateKeepalive()
		}
	}
	r.table.Each(flow.Conn, update)
	r.table.Each(flow.Exposed, update)
}

// updateKeepalive probes both ends of a flow, the guest's sooner when it has
// closed its side.
func (fl *conn) updateKeepalive() {
	if fl.keepalive == keepaliveOff {
		probe(fl.host.FD, keepaliveOpen)
	}
	want := keepaliveOpen
	if fl.guestDone {
		want = keepaliveHalfClosed
	}
	if fl.keepalive != want {
		fl.keepalive = want
		fl.guest.SetKeepalive(want.times())
	}
}

// updateKeepalive probes the host's end of a joined connection, the guest's if its segments
// might come by the device again, and either end that has closed its side.
func (s *splice) updateKeepalive() {
	for _, e := range [2]*spliceEnd{&s.host, &s.guest} {
		want := e.keepalive
		if e == &s.host || e.carried != nil {
			want = keepaliveOpen
		}
		if e.done && !e.peer.done {
			want = keepaliveHalfClosed
		}
		if e.keepalive != want {
			e.keepalive = want
			probe(e.FD, want)
		}
	}
}

// probe sets up the kernel's keepalive. Sockets other than TCP, such as those of
// the resolver's streams, have and need none.
func probe(fd int, k keepalive) {
	idle, interval := k.times()
	for _, o := range [...]struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(idle.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(interval.Seconds())},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	} {
		if unix.SetsockoptInt(fd, o.level, o.name, o.value) != nil {
			return
		}
	}
}
