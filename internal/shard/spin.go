package shard

import "time"

// Going to sleep and being woken takes longer than the answer of a peer on the
// same machine: a round trip of one byte took 91 us with two sleeps of ours in
// it and takes 68 without, a connection 240 us and 180
// (make bench ROWS=rtt-tcp,connect-1). So where events have been coming in quick
// succession, the next one is waited for awake.
const (
	// spinFor bounds that. 20 us were too short for most answers and worth
	// nothing; 30 are worth as much as 50 on a good day.
	spinFor = 50 * time.Microsecond
	// shortSleep is one that spinning would have spared: spinFor, and what a
	// wake-up takes.
	shortSleep = 100 * time.Microsecond
	// spinAfter short sleeps in a row it begins. Each time that it was in vain
	// twice as many are asked for, up to spinAtMost: what guessing wrong costs
	// is spinFor in 256 wake-ups, and a program at rest never spins.
	spinAfter  = 4
	spinAtMost = 256
)

// spin decides whether to wait awake. Its zero value does not.
type spin struct {
	short int // short sleeps in a row
	vain  int // short sleeps asked for beyond spinAfter, since spinning was in vain
}

func (s *spin) pays() bool { return s.short >= spinAfter+s.vain }

// slept learns how long a sleep was.
func (s *spin) slept(d time.Duration) {
	if d < shortSleep {
		s.short++
	} else {
		s.short = 0
	}
}

func (s *spin) hit() { s.vain /= 2 }

func (s *spin) miss() {
	s.short = 0
	s.vain = min(2*(spinAfter+s.vain), spinAtMost) - spinAfter
}
