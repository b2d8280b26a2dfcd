package shard

import "time"

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

// Arm makes t run task after d, replacing an earlier arming.
func (s *Shard) Arm(t *Timer, d time.Duration, task Task) {
	s.armed++
	t.when, t.order, t.task = s.now+d, s.armed, task
	if t.index == 0 {
		s.timers = append(s.timers, t)
		t.index = len(s.timers)
	}
	s.timers.up(t.index - 1)
	s.timers.down(t.index - 1)
}

// Disarm stops t if it is armed.
func (s *Shard) Disarm(t *Timer) {
	if t.index != 0 {
		s.timers.remove(t.index - 1)
	}
}

// Armed reports whether the timer will fire.
func (t *Timer) Armed() bool { return t.index != 0 }

// fireTimers fires what is due. A timer that a task arms for now waits for the
// next turn, or one that keeps doing so would never let the turn end.
func (s *Shard) fireTimers() {
	last := s.armed
	for len(s.timers) > 0 && s.timers[0].when <= s.now && s.timers[0].order <= last {
		t := s.timers[0]
		s.timers.remove(0)
		t.task.Run()
	}
}

func (t *Timer) before(u *Timer) bool {
	return t.when < u.when || t.when == u.when && t.order < u.order
}

// timerHeap is a binary min-heap by time; container/heap would box every call.
type timerHeap []*Timer

func (h timerHeap) first() (time.Duration, bool) {
	if len(h) == 0 {
		return 0, false
	}
	return h[0].when, true
}

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
