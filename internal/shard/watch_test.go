package shard_test

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

func (b bench) watch(t *testing.T, fd int, events uint32, f func(uint32)) *shard.Watch {
	t.Helper()
	w, err := b.Watch(fd, events, handlerFunc(f))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWatchDeliversWhatIsPending(t *testing.T) {
	b := newBench(t)
	var got []uint32
	w := b.watch(t, 4, unix.EPOLLIN, func(ev uint32) { got = append(got, ev) })
	b.poller.Ready(4, unix.EPOLLIN|unix.EPOLLOUT)
	b.turn(t)
	if err := w.Modify(unix.EPOLLOUT); err != nil {
		t.Fatal(err)
	}
	b.poller.Ready(4, unix.EPOLLIN|unix.EPOLLOUT)
	b.poller.Ready(4, unix.EPOLLHUP)
	b.turn(t)
	w.SetHandler(handlerFunc(func(ev uint32) { got = append(got, ev<<16) }))
	b.poller.Ready(4, unix.EPOLLOUT)
	b.turn(t)
	want := []uint32{unix.EPOLLIN, unix.EPOLLOUT, unix.EPOLLHUP, unix.EPOLLOUT << 16}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWatchTwiceFails(t *testing.T) {
	b := newBench(t)
	n := 0
	b.watch(t, 4, unix.EPOLLIN, func(uint32) { n++ })
	if _, err := b.Watch(4, unix.EPOLLIN, handlerFunc(func(uint32) { t.Error("second watch") })); err == nil {
		t.Fatal("a second watch of a descriptor was taken")
	}
	b.poller.Ready(4, unix.EPOLLIN)
	b.turn(t)
	if n != 1 {
		t.Errorf("the first watch had %d events, want 1", n)
	}
}

// Events of one batch are delivered one after the other; a handler that ends
// another watch, whose event is already in the batch, must see it end at once.
func TestNoEventAfterTheWatchEnded(t *testing.T) {
	for name, end := range map[string]func(*shard.Watch){
		"Close":  func(w *shard.Watch) { w.Close() },
		"Forget": func(w *shard.Watch) { w.Forget() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			var first, second *shard.Watch
			n := 0
			first = b.watch(t, 4, unix.EPOLLIN, func(uint32) { n++; end(second) })
			second = b.watch(t, 5, unix.EPOLLIN, func(uint32) { n++; end(first) })
			b.poller.Ready(4, unix.EPOLLIN)
			b.poller.Ready(5, unix.EPOLLIN)
			b.turn(t)
			if n != 1 {
				t.Errorf("%d events, want 1", n)
			}
			end(second) // once more is harmless
		})
	}
}

// The descriptor is closed and its number given to a new one within a batch
// that still holds an event of the old one.
func TestNoEventForAReusedNumber(t *testing.T) {
	for name, end := range map[string]func(bench, *shard.Watch){
		"Close":  func(_ bench, w *shard.Watch) { w.Close() },
		"Forget": func(b bench, w *shard.Watch) { w.Forget(); b.poller.CloseFD(5) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			var old, reused *shard.Watch
			n := 0
			b.watch(t, 4, unix.EPOLLIN, func(uint32) {
				end(b, old)
				reused = b.watch(t, 5, unix.EPOLLIN, func(uint32) { n++ })
			})
			old = b.watch(t, 5, unix.EPOLLIN, func(uint32) { t.Error("event after the end") })
			b.poller.Ready(4, unix.EPOLLIN)
			b.poller.Ready(5, unix.EPOLLIN)
			b.turn(t)
			if n != 0 {
				t.Fatal("the new watch had the old one's event")
			}
			// The old watch must not end the new one either.
			old.Forget()
			if err := old.Close(); err != nil {
				t.Error(err)
			}
			b.poller.Ready(5, unix.EPOLLIN)
			b.turn(t)
			if n != 1 {
				t.Errorf("the new watch had %d events, want 1", n)
			}
			if err := reused.Close(); err != nil {
				t.Error(err)
			}
			if got := b.poller.Watched(); !slices.Equal(got, []int{4}) {
				t.Errorf("still watched: %v", got)
			}
		})
	}
}

// More descriptors than one batch holds: all are served, over several turns,
// and timers and posts are not kept waiting.
func TestManyReadyDescriptorsTakeTurns(t *testing.T) {
	b := newBench(t)
	const count = 1000
	seen := make([]int, count)
	for fd := range count {
		b.watch(t, fd, unix.EPOLLIN, func(uint32) { seen[fd]++ })
		b.poller.Ready(fd, unix.EPOLLIN)
	}
	b.turn(t)
	ran := false
	b.Post(shard.TaskFunc(func() { ran = true }))
	b.turn(t)
	if !ran {
		t.Error("a post waited for the descriptors")
	}
	if slices.Min(seen) != 0 {
		t.Error("two turns served all descriptors: the batch has no bound")
	}
	for range 10 {
		b.turn(t)
	}
	if slices.Min(seen) != 1 || slices.Max(seen) != 1 {
		t.Errorf("served between %d and %d times, want once each", slices.Min(seen), slices.Max(seen))
	}
}
