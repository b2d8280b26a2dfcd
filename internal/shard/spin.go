package shard

import "time"

// Going to sleep and being woken takes longer than the answer of a peer on the
// same machine: a round trip of one byte took 91 us with two of our sleeps in it
// and takes 68 without, a connection 240 us and 180
// (make bench ROWS=rtt-tcp,connect-1). So where events have been coming in quick
// succession, the shard waits for the next one awake.
const (
	// spinFor bounds one such wait. 20 us were too short for most answers and gained
	// nothing; 30 gain as much as 50 at best.
	spinFor = 50 * time.Microsecond
	// yieldFor is the longest time between two looks in which no other thread has run on
	// this processor: a look and a sched_yield take 2 us, a switch to another thread and
	// back 10 and more. If another has run, spinning does not pay: a thread that yields
	// waits for the end of the other's slice, while one that sleeps is woken in the middle
	// of it. Programs of several threads, such as those in Go, behave so, and their round
	// trips take half as long again if the shard spins (make bench ROWS=rtt-go).
	// In a bulk transfer it does pay: the others fill the sockets in their slices, and the
	// next turn moves that at once. A byte takes 0.6 of the helper's CPU time, and the rate is
	// 1.04 to 1.1 (make bench ROWS='published-*-1-65520', 12 rounds).
	yieldFor = 10 * time.Microsecond
	// shortSleep is the longest sleep that spinning would have spared: spinFor, and the
	// time of a wake-up.
	shortSleep = 100 * time.Microsecond
	// Spinning begins after spinAfter short sleeps in a row. Each failure doubles the
	// number, up to spinAtMost: a wrong guess costs spinFor in 256 wake-ups, and a
	// program at rest never spins.
	spinAfter  = 4
	spinAtMost = 256
)

// spin decides whether to wait awake. Its zero value does not.
type spin struct {
	shortSleeps int // in a row
	penalty     int // short sleeps asked for beyond spinAfter, after failures
}

func (s *spin) worthTrying() bool { return s.shortSleeps >= spinAfter+s.penalty }

// slept learns how long a sleep was.
func (s *spin) slept(d time.Duration) {
	if d < shortSleep {
		s.shortSleeps++
	} else {
		s.shortSleeps = 0
	}
}

// looked learns whether a look found events, whether a bulk transfer is under way, and the
// time since the look before and since the wait began. It reports whether the wait is over.
func (s *spin) looked(found, bulk bool, since, waited time.Duration) (over bool) {
	switch {
	case since > yieldFor && !bulk:
		s.failed()
	case found:
		s.succeeded()
	case waited > spinFor:
		s.failed()
	default:
		return false
	}
	return true
}

// succeeded learns that an event came while spinning.
func (s *spin) succeeded() { s.penalty /= 2 }

// failed learns that none came within spinFor, or that others need the processor.
func (s *spin) failed() {
	s.shortSleeps = 0
	s.penalty = min(2*(spinAfter+s.penalty), spinAtMost) - spinAfter
}
