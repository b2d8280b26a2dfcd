package shard

import (
	"testing"
	"time"
)

func TestSpinBeginsAfterShortSleeps(t *testing.T) {
	var s spin
	for range spinAfter {
		if s.worthTrying() {
			t.Fatal("spins too early")
		}
		s.slept(shortSleep - 1)
	}
	if !s.worthTrying() {
		t.Fatal("does not spin after short sleeps")
	}
	s.succeeded()
	if !s.worthTrying() {
		t.Fatal("does not go on after a success")
	}
	s.slept(time.Second)
	if s.worthTrying() {
		t.Fatal("spins after a long sleep")
	}
}

// A shard whose guess is always wrong, as with events every 90 us, spins seldom.
func TestSpinInVainBecomesRare(t *testing.T) {
	var s spin
	const sleeps = 10_000
	spins := 0
	for range sleeps {
		if s.worthTrying() {
			spins++
			s.failed()
		}
		s.slept(90 * time.Microsecond)
	}
	if most := sleeps/spinAtMost + 8; spins > most {
		t.Errorf("spun %d times in %d wake-ups, want at most %d", spins, sleeps, most)
	}
	// When it pays again it comes back.
	for range spinAtMost {
		s.slept(time.Microsecond)
	}
	for range 10 {
		if !s.worthTrying() {
			t.Fatal("never spins again")
		}
		s.succeeded()
	}
	s.failed()
	for range 2 * spinAfter {
		s.slept(time.Microsecond)
	}
	if !s.worthTrying() {
		t.Error("the successes are forgotten")
	}
}

// Where another thread runs on the shard's processor whenever it is offered, events are
// found at each look, and the shard yet sleeps. In a bulk transfer it goes on without.
func TestSpinLeavesTheProcessorToOthers(t *testing.T) {
	const sleeps = 10 * spinAtMost
	for _, c := range []struct {
		bulk        bool
		least, most int
	}{
		{false, 1, sleeps/spinAtMost + 8},
		{true, sleeps - spinAfter, sleeps - spinAfter},
	} {
		var s spin
		spins := 0
		for range sleeps {
			if s.worthTrying() {
				spins++
				if s.looked(false, c.bulk, time.Microsecond, time.Microsecond) {
					t.Fatal("ends after one look")
				}
				if !s.looked(true, c.bulk, 2*yieldFor, 3*yieldFor) {
					t.Fatal("goes on with an event")
				}
			}
			s.slept(shortSleep / 2)
		}
		if spins < c.least || spins > c.most {
			t.Errorf("bulk %v: spun %d times in %d wake-ups, want %d to %d", c.bulk, spins, sleeps, c.least, c.most)
		}
	}
}
