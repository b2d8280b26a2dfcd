package dns

import (
	"slices"
	"time"
)

// How many looks at resolv.conf queries may ask for in how long a time. One
// look is a stat(2) on a goroutine: about 2 us, and 40 us of waiting for both
// wake-ups. So 8 in 100 ms cost a busy guest some 0.3 % of its time, and below
// 80 queries a second every query has a look of its own.
const (
	lookQuota  = 8
	lookWindow = 100 * time.Millisecond
)

// lookout knows the nameservers as of the last look at resolv.conf. It is the
// shard's; the looking itself is done by a goroutine, one at a time, as a file
// system may keep it waiting.
type lookout struct {
	servers []*server
	err     error // of the last look: there are none
	known   bool  // there was a look

	started int // looks
	ended   int
	window  time.Duration // when it began
	used    int           // looks started in this window
	waiting []*exchange   // for look number exchange.look, in the order of coming
}

// needsLook reports whether a query that comes now is to wait for a look. With
// nothing to go by there is no quota: looks come one after the other, and each
// serves all who wait.
func (l *lookout) needsLook(now time.Duration) bool {
	if now-l.window >= lookWindow {
		l.window, l.used = now, 0
	}
	return l.used < lookQuota || !l.known || l.err != nil
}

// await has the exchange wait for a look that has not begun yet: what the file
// said before the query came is not good enough.
func (r *Resolver) await(x *exchange) {
	l := &r.lookout
	x.look = l.started + 1
	l.waiting = append(l.waiting, x)
	if l.started == l.ended {
		r.startLook()
	}
}

// unwait takes an exchange off the list of those waiting.
func (l *lookout) unwait(x *exchange) {
	x.look = 0
	if i := slices.Index(l.waiting, x); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
}

func (r *Resolver) startLook() {
	r.lookout.started++
	r.lookout.used++
	r.running.Add(1)
	go r.look()
}

// look runs on a goroutine of its own.
func (r *Resolver) look() {
	defer r.running.Done()
	servers, err := r.nameservers()
	r.shard.Post(&outlook{r, servers, err})
}

// outlook is the outcome of a look on its way to the shard.
type outlook struct {
	r       *Resolver
	servers []*server
	err     error
}

// Run implements shard.Task.
func (o *outlook) Run() {
	r, l := o.r, &o.r.lookout
	if r.closed {
		return
	}
	for _, s := range l.servers {
		if s.sock != nil && !slices.Contains(o.servers, s) {
			s.sock.retire()
		}
	}
	l.ended++
	l.servers, l.err, l.known = o.servers, o.err, true
	due := l.waiting
	if i := slices.IndexFunc(due, func(x *exchange) bool { return x.look > l.ended }); i >= 0 {
		due = due[:i]
		r.startLook()
	}
	l.waiting = slices.Clone(l.waiting[len(due):])
	for _, x := range due {
		x.look = 0
		x.start()
	}
}
