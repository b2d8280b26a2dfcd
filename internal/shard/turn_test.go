package shard_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
)

// bench is a shard with everything around it under the test's control.
type bench struct {
	*shard.Shard
	clock  *shardtest.Clock
	poller *shardtest.Poller
}

func newBench(t testing.TB) bench {
	t.Helper()
	b := bench{clock: new(shardtest.Clock), poller: new(shardtest.Poller)}
	var err error
	if b.Shard, err = shard.New(shard.Config{Clock: b.clock, Poller: b.poller}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if !b.poller.Closed() {
			t.Error("the poller was left open")
		}
	})
	return b
}

func (b bench) turn(t testing.TB) {
	t.Helper()
	if err := b.Turn(-1); err != nil {
		t.Fatal(err)
	}
}

// worker is a task with so much work left.
type worker struct {
	b    bench
	name int
	left int
	log  *[]int
}

func (w *worker) Run() {
	*w.log = append(*w.log, w.name)
	if w.left--; w.left > 0 {
		w.b.Again(w)
	}
}

func TestTasksRunInTheOrderTheyBecameRunnable(t *testing.T) {
	b := newBench(t)
	var got []int
	for i := range 5 {
		b.Post(shard.TaskFunc(func() { got = append(got, i) }))
	}
	if len(got) != 0 {
		t.Fatal("a task ran before its turn")
	}
	b.turn(t)
	if want := []int{0, 1, 2, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("ran %v, want %v", got, want)
	}
	b.turn(t)
	if len(got) != 5 {
		t.Errorf("a task ran twice: %v", got)
	}
}

// A busy task gets one run per turn, whatever is left of it, and the others
// theirs.
func TestAgainIsFair(t *testing.T) {
	b := newBench(t)
	var got []int
	b.Post(&worker{b, 0, 100, &got})
	b.Post(&worker{b, 1, 2, &got})
	for range 3 {
		b.turn(t)
	}
	b.Post(&worker{b, 2, 1, &got})
	b.turn(t)
	if want := []int{0, 1, 0, 1, 0, 0, 2}; !slices.Equal(got, want) {
		t.Errorf("ran %v, want %v", got, want)
	}
}

// One turn: posts, then timers, then the tasks of both, then descriptors.
func TestOrderWithinATurn(t *testing.T) {
	b := newBench(t)
	var got []string
	note := func(s string) shard.Task { return shard.TaskFunc(func() { got = append(got, s) }) }
	if _, err := b.Watch(7, 1, handlerFunc(func(uint32) {
		got = append(got, "descriptor")
		b.Again(note("task of descriptor"))
	})); err != nil {
		t.Fatal(err)
	}
	var timer shard.Timer
	b.Arm(&timer, time.Second, shard.TaskFunc(func() {
		got = append(got, "timer")
		b.Again(note("task of timer"))
	}))
	b.clock.Advance(time.Second)
	b.poller.Ready(7, 1)
	b.Post(note("post"))
	b.turn(t)
	b.turn(t)
	want := []string{"timer", "post", "task of timer", "descriptor", "task of descriptor"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestNowStandsStillWithinATurn(t *testing.T) {
	b := newBench(t)
	var first, second time.Duration
	b.Post(shard.TaskFunc(func() {
		first = b.Now()
		b.clock.Advance(time.Minute)
		second = b.Now()
	}))
	b.turn(t)
	if first != second {
		t.Errorf("Now moved from %v to %v within a turn", first, second)
	}
	b.turn(t)
	if got := b.Now(); got != time.Minute {
		t.Errorf("Now = %v in the next turn, want 1m", got)
	}
}

// sleeper is a poller that sleeps until its event comes.
type sleeper struct {
	*shardtest.Poller
	clock *shardtest.Clock
	sleep time.Duration
}

func (p *sleeper) Wait(events []shard.Event, timeout time.Duration) (int, error) {
	p.clock.Advance(p.sleep)
	p.sleep = 0
	return p.Poller.Wait(events, timeout)
}

// However long the shard slept, an event that wakes it is handled by the time of
// now: what its handler arms has its whole time left.
func TestEventIsHandledAtTheTimeOfWaking(t *testing.T) {
	clock, poller := new(shardtest.Clock), new(shardtest.Poller)
	s, err := shard.New(shard.Config{Clock: clock, Poller: &sleeper{poller, clock, time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var timer shard.Timer
	fired := false
	if _, err := s.Watch(7, 1, handlerFunc(func(uint32) {
		if s.Now() != time.Minute {
			t.Errorf("the handler's Now is %v, want 1m", s.Now())
		}
		s.Arm(&timer, time.Second, shard.TaskFunc(func() { fired = true }))
	})); err != nil {
		t.Fatal(err)
	}
	poller.Ready(7, 1)
	for range 3 {
		if err := s.Turn(-1); err != nil {
			t.Fatal(err)
		}
	}
	if fired {
		t.Error("a timer of a second fired at once")
	}
	clock.Advance(time.Second)
	if err := s.Turn(0); err != nil {
		t.Fatal(err)
	}
	if !fired {
		t.Error("the timer did not fire after a second")
	}
}

// Waiting is decided by what is left to do: nothing (without limit), a timer
// (until then), a runnable task or a post (not at all).
func TestWaitTimes(t *testing.T) {
	b := newBench(t)
	waits := func(want time.Duration) {
		t.Helper()
		b.poller.Waits()
		b.turn(t)
		if got := b.poller.Waits(); len(got) != 1 || got[0] != want {
			t.Errorf("waited %v, want once %v", got, want)
		}
	}
	waits(-1)
	var early, late shard.Timer
	nothing := shard.TaskFunc(func() {})
	b.Arm(&late, 3*time.Second, nothing)
	b.Arm(&early, time.Second, nothing)
	waits(time.Second)
	b.Disarm(&early)
	waits(3 * time.Second)
	b.clock.Advance(2 * time.Second)
	waits(time.Second)
	b.Again(&worker{b, 0, 2, new([]int)})
	waits(0) // it asked for another turn
	waits(time.Second)
	b.Disarm(&late)
	b.Post(shard.TaskFunc(func() { b.Post(nothing) }))
	waits(0) // posted by a task of this very turn
	waits(-1)
}

func TestB8_IdleMakesNoWakeUp(t *testing.T) {
	b := newBench(t)
	if _, err := b.Watch(3, 1, handlerFunc(func(uint32) {})); err != nil {
		t.Fatal(err)
	}
	b.Post(shard.TaskFunc(func() {}))
	b.turn(t)
	b.poller.Waits()
	for range 10 {
		b.turn(t) // each stands for a spurious return
		b.clock.Advance(time.Hour)
	}
	for _, w := range b.poller.Waits() {
		if w >= 0 {
			t.Fatalf("an idle shard wants to wake after %v", w)
		}
	}
	if n := b.poller.Wakes(); n != 0 {
		t.Errorf("%d wake-ups", n)
	}
}

func TestTurnLimitsItsWait(t *testing.T) {
	b := newBench(t)
	for _, wait := range []time.Duration{0, time.Millisecond} {
		b.poller.Waits()
		if err := b.Turn(wait); err != nil {
			t.Fatal(err)
		}
		if got := b.poller.Waits(); len(got) != 1 || got[0] != wait {
			t.Errorf("Turn(%v) waited %v", wait, got)
		}
	}
}

func TestFailureOfThePollerEndsServe(t *testing.T) {
	b := newBench(t)
	broken := errors.New("broken")
	b.poller.Fail(broken)
	if err := b.Serve(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Serve = %v, want %v", err, broken)
	}
}

// Tasks that post, ask again and arm timers by chance: none is lost, none
// doubled, and the same seed gives the same history.
func TestHistoryFollowsFromTheSeed(t *testing.T) {
	history := func(seed uint64) (log []int, planned int) {
		b := newBench(t)
		rng := rand.New(rand.NewPCG(seed, 1))
		timers := make([]shard.Timer, 0, 1000)
		var task func(depth int) shard.Task
		task = func(depth int) shard.Task {
			name := planned
			planned++
			return shard.TaskFunc(func() {
				log = append(log, name)
				if depth == 0 {
					return
				}
				for range rng.IntN(3) {
					switch rng.IntN(3) {
					case 0:
						b.Post(task(depth - 1))
					case 1:
						b.Again(task(depth - 1))
					case 2:
						timers = append(timers, shard.Timer{})
						b.Arm(&timers[len(timers)-1], time.Duration(rng.IntN(100))*time.Millisecond, task(depth-1))
					}
				}
			})
		}
		for range 20 {
			b.Post(task(4))
		}
		for range 100 {
			b.turn(t)
			b.clock.Advance(time.Duration(rng.IntN(50)) * time.Millisecond)
		}
		if len(timers) == cap(timers) {
			t.Fatal("the timers were moved")
		}
		return log, planned
	}
	for seed := range uint64(20) {
		log, planned := history(seed)
		if len(log) != planned {
			t.Errorf("seed %d: %d of %d tasks ran", seed, len(log), planned)
		}
		sorted := slices.Clone(log)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != len(log) {
			t.Errorf("seed %d: a task ran twice", seed)
		}
		if again, _ := history(seed); !slices.Equal(log, again) {
			t.Errorf("seed %d: two histories", seed)
		}
	}
}

func TestNoAllocationInSteadyState(t *testing.T) {
	b := newBench(t)
	var timer shard.Timer
	quiet := &quietTask{}
	if _, err := b.Watch(5, 1, quiet); err != nil {
		t.Fatal(err)
	}
	step := func() {
		b.Post(quiet)
		b.Again(quiet)
		b.Arm(&timer, time.Millisecond, quiet)
		b.poller.Ready(5, 1)
		b.clock.Advance(time.Millisecond)
		if err := b.Turn(-1); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		step()
	}
	b.poller.Waits()
	if n := testing.AllocsPerRun(1000, step); n > 0 {
		t.Errorf("%v allocations per turn", n)
	}
	if quiet.runs < 3000 || quiet.ready < 1000 {
		t.Errorf("ran %d times, was ready %d times", quiet.runs, quiet.ready)
	}
}

// quietTask is a Task and a Handler that only counts.
type quietTask struct{ runs, ready int }

func (q *quietTask) Run()         { q.runs++ }
func (q *quietTask) Ready(uint32) { q.ready++ }

type handlerFunc func(events uint32)

func (f handlerFunc) Ready(events uint32) { f(events) }

// A bulk transfer lasts beyond turns in which nothing moves, and ends by itself.
func TestBulk(t *testing.T) {
	b := newBench(t)
	wait := func(want bool) {
		t.Helper()
		if err := b.Turn(-1); err != nil || b.poller.Bulk() != want {
			t.Errorf("waits as in bulk: %v, %v; want %v", b.poller.Bulk(), err, want)
		}
	}
	wait(false)
	b.Again(shard.TaskFunc(b.Bulk))
	wait(true)
	b.clock.Advance(time.Millisecond)
	wait(true)
	b.clock.Advance(time.Second)
	wait(false)
}
