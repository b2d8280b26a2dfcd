package shard

import "time"

// Going to sleep and being woken takes longer than the answer of a peer on the
// same machine: a round trip of one byte took 91 us with two of our sleeps in it
// and takes 68 without, a connection 240 us and 180
// (make bench ROWS=rtt-tcp,connect-1). So where events have been coming in quick
// succession, the shard waits for the next one awake.
const (
	// spinFor bounds one such wait. 20 us were too short for most answers and worth
	// nothing; 30 are worth as much as 50 on a good day.
	spinFor = 50 * time.Microsecond
	// shortSleep is a sleep that spinning would have spared: spinFor, and what a
	// wake-up takes.
	shortSleep = 100 * time.Microsecond
	// spinAfter short sleeps in a row spinning begins. Each failure doubles the
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

// succeeded learns that an event came while spinning.
func (s *spin) succeeded() { s.penalty /= 2 }

// failed learns that none came within spinFor.
func (s *spin) failed() {
	s.shortSleeps = 0
	s.penalty = min(2*(spinAfter+s.penalty), spinAtMost) - spinAfter
}
