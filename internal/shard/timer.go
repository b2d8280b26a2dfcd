package shard

import (
	"math"
	"sync"
	"time"
)

// Timer runs a task on the shard's thread at a later time. Its zero value is
// not armed; it is embedded in what it times, so arming allocates nothing.
//
// A heap, not a wheel: flows refresh a last-seen time instead of moving their
// timer, and look at it when the timer fires, so the heap is touched about
// once per flow and timeout.
type Timer struct {
	when  time.Duration
	order uint64 // of arming; among timers for the same time, the earlier armed fires first
	index int    // position in the heap plus one; 0 when not armed
	task  Task
}

// timers are all armed timers of a shard. The lock is for those that other
// goroutines arm; on the shard's own thread it is free.
type timers struct {
	mu    sync.Mutex
	heap  timerHeap // guarded by mu, and so are the fields of its timers
	armed uint64    // timers armed so far; guarded by mu
}

// Arm makes t run task d after the beginning of this turn, replacing an earlier
// arming. Shard's thread only.
func (s *Shard) Arm(t *Timer, d time.Duration, task Task) { s.ArmAt(t, s.now+d, task) }

// ArmAt makes t run task at a time of the shard's clock, replacing an earlier
// arming. Any goroutine may call it.
func (s *Shard) ArmAt(t *Timer, when time.Duration, task Task) {
	ts := &s.timers
	ts.mu.Lock()
	ts.armed++
	t.when, t.order, t.task = when, ts.armed, task
	if t.index == 0 {
		ts.heap = append(ts.heap, t)
		t.index = len(ts.heap)
	}
	ts.heap.up(t.index - 1)
	ts.heap.down(t.index - 1)
	first := t.index == 1
	ts.mu.Unlock()
	if first {
		s.wake() // it would sleep too long
	}
}

// Disarm stops t and reports whether it was armed. Any goroutine may call it.
func (s *Shard) Disarm(t *Timer) bool {
	s.timers.mu.Lock()
	defer s.timers.mu.Unlock()
	if t.index == 0 {
		return false
	}
	s.timers.heap.remove(t.index - 1)
	return true
}

// Armed reports whether t will fire. Any goroutine may call it.
func (s *Shard) Armed(t *Timer) bool {
	s.timers.mu.Lock()
	defer s.timers.mu.Unlock()
	return t.index != 0
}

// fireTimers fires what is due. A timer that a task arms for now waits for the
// next turn, or one that keeps doing so would never let the turn end.
func (s *Shard) fireTimers() {
	last := uint64(math.MaxUint64)
	for {
		var task Task
		if task, last = s.timers.due(s.now, last); task == nil {
			return
		}
		task.Run()
	}
}

// due takes the next timer out that is due and was among the first last ones
// to be armed, and returns its task, nil if there is none. It lowers last to
// the number armed so far.
func (ts *timers) due(now time.Duration, last uint64) (Task, uint64) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	last = min(last, ts.armed)
	if len(ts.heap) == 0 || ts.heap[0].when > now || ts.heap[0].order > last {
		return nil, last
	}
	t := ts.heap[0]
	ts.heap.remove(0)
	return t.task, last
}

// first is the time of the timer that fires next.
func (ts *timers) first() (time.Duration, bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if len(ts.heap) == 0 {
		return 0, false
	}
	return ts.heap[0].when, true
}

func (t *Timer) before(u *Timer) bool {
	return t.when < u.when || t.when == u.when && t.order < u.order
}

// timerHeap is a binary min-heap by time; container/heap would box every call.
type timerHeap []*Timer

func (h *timerHeap) remove(i int) {
	old := *h
	last := len(old) - 1
	old[i].index = 0
	if i != last {
		old[i] = old[last]
		old[i].index = i + 1
	}
	old[last] = nil
	*h = old[:last]
	if i != last {
		h.up(i)
		h.down(i)
	}
}

func (h timerHeap) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h[i].before(h[parent]) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h timerHeap) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if right := child + 1; right < len(h) && h[right].before(h[child]) {
			child = right
		}
		if !h[child].before(h[i]) {
			return
		}
		h.swap(i, child)
		i = child
	}
}

func (h timerHeap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}
