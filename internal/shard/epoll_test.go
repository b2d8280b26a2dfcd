package shard_test

import (
	"context"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a shard over the kernel's epoll until the test ends.
func serve(t *testing.T) *shard.Shard {
	t.Helper()
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// do runs f on the shard's thread and waits for it.
func do(t *testing.T, s *shard.Shard, f func()) {
	t.Helper()
	done := make(chan struct{})
	if !s.Post(shard.TaskFunc(func() { defer close(done); f() })) {
		t.Fatal("post refused")
	}
	await(t, done)
}

func await(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing happened for 10 s")
	}
}

// Posts of many goroutines race with a shard that falls asleep after each:
// a lost wake-up would leave one lying.
func TestPostsAreNeverLost(t *testing.T) {
	s := serve(t)
	const goroutines, posts = 8, 3000
	var ran [goroutines]int // the shard's thread only
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range posts {
				done := make(chan struct{})
				s.Post(shard.TaskFunc(func() {
					if ran[g] != i {
						t.Errorf("goroutine %d: post %d ran as number %d", g, i, ran[g])
					}
					ran[g]++
					close(done)
				}))
				if i%4 == 0 { // sometimes let it fall asleep
					<-done
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	await(t, finished)
	do(t, s, func() {
		for g, n := range ran {
			if n != posts {
				t.Errorf("goroutine %d: %d of %d posts ran", g, n, posts)
			}
		}
	})
}

// One goroutine posts at odd moments to a shard that waits awake at times: a
// wake-up that is swallowed there would leave the post lying.
func TestPostsWhileSpinningAreNeverLost(t *testing.T) {
	s := serve(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		pause := time.Duration(rnd.IntN(80)) * time.Microsecond
		for begun := time.Now(); time.Since(begun) < pause; {
			runtime.Gosched()
		}
		do(t, s, func() {})
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx) }()
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Serve goes on without its context")
		}
	}
}

func TestPostAfterCloseIsRefused(t *testing.T) {
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s.Post(shard.TaskFunc(func() { t.Error("ran") })) {
		t.Error("a closed shard took a task")
	}
}

func TestTimerWakesASleepingShard(t *testing.T) {
	s := serve(t)
	fired := make(chan struct{})
	var timer shard.Timer
	var early bool
	do(t, s, func() {
		start := s.Now()
		s.Arm(&timer, 5*time.Millisecond, shard.TaskFunc(func() {
			early = s.Now()-start < 5*time.Millisecond
			close(fired)
		}))
	})
	await(t, fired)
	if early {
		t.Error("fired early")
	}
}

func TestEpollDeliversAndForgets(t *testing.T) {
	s := serve(t)
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	got := make(chan byte, 1)
	var w *shard.Watch
	do(t, s, func() {
		var err error
		w, err = s.Watch(fds[0], unix.EPOLLIN|unix.EPOLLET, handlerFunc(func(uint32) {
			var b [1]byte
			if n, _ := unix.Read(fds[0], b[:]); n == 1 {
				got <- b[0]
			}
		}))
		if err != nil {
			t.Error(err)
		}
	})
	for i := range byte(3) {
		if _, err := unix.Write(fds[1], []byte{i}); err != nil {
			t.Fatal(err)
		}
		if b := <-got; b != i {
			t.Fatalf("got %d, want %d", b, i)
		}
	}
	// The number is free for a new descriptor right after Forget and close.
	do(t, s, func() {
		w.Forget()
		unix.Close(fds[0])
		fd, err := unix.Eventfd(1, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
		if err != nil {
			t.Error(err)
			return
		}
		var again *shard.Watch
		again, err = s.Watch(fd, unix.EPOLLIN, handlerFunc(func(uint32) {
			again.Close()
			unix.Close(fd)
			got <- 42
		}))
		if err != nil {
			t.Error(err)
		}
	})
	if b := <-got; b != 42 {
		t.Errorf("got %d", b)
	}
}

// Timers must not be rounded down to a spin: while one is half a millisecond
// away the loop sleeps.
func TestShortTimerDoesNotSpin(t *testing.T) {
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var timer shard.Timer
	fired := false
	s.Arm(&timer, 500*time.Microsecond, shard.TaskFunc(func() {
		fired = true
		s.Post(&quietTask{}) // so that this turn does not sleep
	}))
	turns := 0
	for !fired {
		if err := s.Turn(-1); err != nil {
			t.Fatal(err)
		}
		turns++
	}
	if turns > 3 {
		t.Errorf("%d turns until a single timer fired", turns)
	}
}

func TestCloseLeavesNoDescriptor(t *testing.T) {
	before := openFiles(t)
	for range 20 {
		s, err := shard.New(shard.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// The whole kernel path, a post that wakes the poller included, allocates
// nothing.
func TestNoAllocationOnTheKernelPath(t *testing.T) {
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fd, err := unix.Eventfd(1, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	quiet := &quietTask{}
	if _, err := s.Watch(fd, unix.EPOLLIN, quiet); err != nil {
		t.Fatal(err)
	}
	step := func() {
		s.Post(quiet)
		if err := s.Turn(-1); err != nil {
			t.Fatal(err)
		}
	}
	step()
	step()
	if n := testing.AllocsPerRun(200, step); n > 0 {
		t.Errorf("%v allocations per turn", n)
	}
	if quiet.ready < 200 || quiet.runs < 200 {
		t.Errorf("%d events, %d tasks", quiet.ready, quiet.runs)
	}
}

// BenchmarkPost measures the way into a shard that is asleep.
func BenchmarkPost(b *testing.B) {
	s, err := shard.New(shard.Config{})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	var ran atomic.Int64
	task := shard.TaskFunc(func() { ran.Add(1) })
	for b.Loop() {
		s.Post(task)
	}
	cancel()
	<-served
	s.Close()
}

// A shard that falls asleep is in the way of neither other goroutines nor the
// garbage collector, which stops the world.
func TestSleepHoldsNobodyUp(t *testing.T) {
	s := serve(t)
	for range 50 {
		do(t, s, func() {})
		collected := make(chan struct{})
		go func() { defer close(collected); runtime.GC() }()
		await(t, collected)
	}
}
