package shard

import (
	"container/heap"
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
// goroutines arm, and seldom contended.
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
		heap.Push(&ts.heap, t)
	} else {
		heap.Fix(&ts.heap, t.index-1)
	}
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
	heap.Remove(&s.timers.heap, t.index-1)
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

// due removes the next timer that is due and was armed as number last or earlier,
// and returns its task, nil if there is none. It lowers last to the number armed
// so far.
func (ts *timers) due(now time.Duration, last uint64) (Task, uint64) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	last = min(last, ts.armed)
	if len(ts.heap) == 0 || ts.heap[0].when > now || ts.heap[0].order > last {
		return nil, last
	}
	return heap.Pop(&ts.heap).(*Timer).task, last
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

// timerHeap implements heap.Interface: the timer that fires next comes first.
type timerHeap []*Timer

func (h timerHeap) Len() int { return len(h) }

func (h timerHeap) Less(i, j int) bool {
	return h[i].when < h[j].when || h[i].when == h[j].when && h[i].order < h[j].order
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

func (h *timerHeap) Push(x any) {
	t := x.(*Timer)
	*h = append(*h, t)
	t.index = len(*h)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = 0
	return t
}
