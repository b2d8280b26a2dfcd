package shard_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"epiphyte/internal/shard"
)

func TestTimerLife(t *testing.T) {
	b := newBench(t)
	var timer shard.Timer
	fired := 0
	task := shard.TaskFunc(func() { fired++ })
	if b.Armed(&timer) {
		t.Error("the zero Timer is armed")
	}
	b.Disarm(&timer) // of one that never was armed
	b.Arm(&timer, time.Second, task)
	if !b.Armed(&timer) {
		t.Error("not armed after Arm")
	}
	b.clock.Advance(time.Second - 1)
	b.turn(t)
	if fired != 0 {
		t.Fatal("fired early")
	}
	b.clock.Advance(1)
	b.turn(t)
	if fired != 1 || b.Armed(&timer) {
		t.Fatalf("fired %d times, armed %v", fired, b.Armed(&timer))
	}
	b.clock.Advance(time.Hour)
	b.turn(t)
	if fired != 1 {
		t.Fatal("fired twice")
	}
	// Arming again moves it, it does not double it.
	b.Arm(&timer, time.Second, task)
	b.Arm(&timer, time.Minute, task)
	b.clock.Advance(time.Second)
	b.turn(t)
	if fired != 1 {
		t.Fatal("the replaced arming fired")
	}
	b.Arm(&timer, time.Millisecond, task)
	b.clock.Advance(time.Millisecond)
	b.turn(t)
	if fired != 2 {
		t.Fatal("the earlier re-arming did not fire")
	}
	b.Arm(&timer, time.Second, task)
	b.Disarm(&timer)
	b.Disarm(&timer)
	b.clock.Advance(time.Hour)
	b.turn(t)
	if fired != 2 {
		t.Fatal("a disarmed timer fired")
	}
}

func TestTimersFireInOrderOfTime(t *testing.T) {
	b := newBench(t)
	var got []int
	timers := make([]shard.Timer, 100)
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(timers)) {
		b.Arm(&timers[i], time.Duration(i)*time.Second, shard.TaskFunc(func() { got = append(got, i) }))
	}
	b.clock.Advance(time.Hour)
	b.turn(t)
	if len(got) != len(timers) || !slices.IsSorted(got) {
		t.Errorf("fired in the order %v", got)
	}
}

func TestTimersOfOneTimeFireInOrderOfArming(t *testing.T) {
	b := newBench(t)
	var got []int
	timers := make([]shard.Timer, 100)
	order := rand.New(rand.NewPCG(3, 4)).Perm(len(timers))
	for _, i := range order {
		b.Arm(&timers[i], time.Second, shard.TaskFunc(func() { got = append(got, i) }))
	}
	b.clock.Advance(time.Second)
	b.turn(t)
	if !slices.Equal(got, order) {
		t.Errorf("fired in the order %v, armed in %v", got, order)
	}
}

func TestTimerCallbackMayArmAndDisarm(t *testing.T) {
	b := newBench(t)
	var periodic, victim, born shard.Timer
	var got []string
	var tick func()
	tick = func() {
		got = append(got, "tick")
		b.Arm(&periodic, time.Second, shard.TaskFunc(tick))
	}
	b.Arm(&periodic, time.Second, shard.TaskFunc(tick))
	for range 3 {
		b.clock.Advance(time.Second)
		b.turn(t)
	}
	if want := []string{"tick", "tick", "tick"}; !slices.Equal(got, want) {
		t.Fatalf("got %v", got)
	}
	b.Disarm(&periodic)

	// Both due in the same turn: the first one's callback disarms the second.
	got = nil
	var killer shard.Timer
	b.Arm(&victim, 2*time.Second, shard.TaskFunc(func() { got = append(got, "victim") }))
	b.Arm(&killer, time.Second, shard.TaskFunc(func() {
		got = append(got, "killer")
		b.Disarm(&victim)
		b.Arm(&born, time.Second, shard.TaskFunc(func() { got = append(got, "born") }))
	}))
	b.clock.Advance(5 * time.Second)
	b.turn(t)
	b.clock.Advance(time.Second)
	b.turn(t)
	if want := []string{"killer", "born"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A timer that is armed anew for "now" by its own callback must not keep the
// shard from its descriptors.
func TestTimerArmedForNowByItsCallbackLetsTheTurnGoOn(t *testing.T) {
	b := newBench(t)
	var timer shard.Timer
	n := 0
	var again func()
	again = func() {
		if n++; n < 1000 {
			b.Arm(&timer, 0, shard.TaskFunc(again))
		}
	}
	b.Arm(&timer, 0, shard.TaskFunc(again))
	b.turn(t)
	if n != 1 {
		t.Errorf("fired %d times within one turn, want once", n)
	}
}

// The heap against a model that is too simple to be wrong: a slice that is
// searched.
func TestTimersAgainstAModel(t *testing.T) {
	for seed := range uint64(30) {
		b := newBench(t)
		rng := rand.New(rand.NewPCG(seed, 3))
		const count = 64
		timers := make([]shard.Timer, count)
		model := make([]time.Duration, count) // when, negative: not armed
		var fired []int
		for i := range model {
			model[i] = -1
		}
		for step := range 2000 {
			i := rng.IntN(count)
			switch rng.IntN(5) {
			case 0, 1, 2:
				d := time.Duration(1+rng.IntN(50)) * time.Millisecond
				b.Arm(&timers[i], d, shard.TaskFunc(func() { fired = append(fired, i) }))
				model[i] = b.Now() + d
			case 3:
				b.Disarm(&timers[i])
				model[i] = -1
			case 4:
				b.clock.Advance(time.Duration(rng.IntN(20)) * time.Millisecond)
				b.poller.Waits()
				fired = fired[:0]
				b.turn(t)
				var want []int
				next := time.Duration(-1)
				for j, when := range model {
					switch {
					case when < 0:
					case when <= b.Now():
						want = append(want, j)
					case next < 0 || when-b.Now() < next:
						next = when - b.Now()
					}
				}
				if !slices.IsSortedFunc(fired, func(x, y int) int { return int(model[x] - model[y]) }) {
					t.Fatalf("seed %d step %d: fired out of order", seed, step)
				}
				got := slices.Clone(fired)
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d step %d: fired %v, want %v", seed, step, got, want)
				}
				if w := b.poller.Waits(); len(w) != 1 || w[0] != next {
					t.Fatalf("seed %d step %d: waits %v, want %v", seed, step, w, next)
				}
				for _, j := range want {
					model[j] = -1
				}
			}
			if b.Armed(&timers[i]) != (model[i] >= 0) {
				t.Fatalf("seed %d step %d: timer %d armed %v, model %v", seed, step, i, b.Armed(&timers[i]), model[i])
			}
		}
	}
}
