// Package shard is the event loop of the data path: one OS thread that owns
// one TAP queue and every flow on it.
//
// # Theory of operation
//
// A Shard multiplexes file descriptors, timers and tasks on one goroutine
// locked to its thread. Whatever belongs to a shard (tables, flows, sockets,
// timers) is touched by that thread only, so the hot path takes no lock and
// wakes no thread. Other goroutines reach a shard in two ways: they Post a task for
// the next turn, or arm a timer with ArmAt.
//
// One turn of the loop:
//
//  1. tasks posted by other goroutines become runnable,
//  2. timers that are due fire,
//  3. every runnable task runs once, in the order in which it became runnable;
//     a task with work left asks for the next turn with Again, so a busy flow
//     never starves the others,
//  4. the poller is asked for ready descriptors: without waiting while
//     anything is runnable, else until the next timer or a Post.
//
// Invariants: a handler never blocks; a Watch delivers nothing after Close,
// even if the descriptor number was reused within the same batch of events;
// time stands still within a turn, except that handlers of events see the time at
// which the poller woke, not that at which it went to sleep.
//
// An idle shard makes no system call and never wakes up: timers are armed only
// while a flow needs one.
//
// The clock and the poller are interfaces so that a test drives a shard event
// by event (see package shardtest); the zero Config uses the kernel's.
//
// What it does not do: it knows nothing of packets, sockets or gVisor.
package shard

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A Task is a unit of work on the shard's thread.
type Task interface{ Run() }

// TaskFunc makes a Task of a function, for rare work; hot paths implement
// Task on a long-lived value and allocate nothing.
type TaskFunc func()

// Run calls f.
func (f TaskFunc) Run() { f() }

// A Handler is told which of the events of its Watch are pending.
type Handler interface{ Ready(events uint32) }

// Clock tells monotonic time since an arbitrary start. Any goroutine may read it.
type Clock interface{ Now() time.Duration }

// Event is one readiness report of a Poller.
type Event struct {
	FD     int32
	Serial uint32 // the one given to Add, to tell reused descriptors apart
	Events uint32 // EPOLL* bits
}

// Poller waits for descriptors. Wait is called by the shard's thread only,
// Wake by any goroutine.
type Poller interface {
	Add(fd int, events, serial uint32) error
	Modify(fd int, events, serial uint32) error
	Remove(fd int) error
	// Wait fills events; a negative timeout waits without limit, zero not at
	// all. It returns early after Wake.
	Wait(events []Event, timeout time.Duration) (int, error)
	// Spin fills events if there are any soon. It does not sleep, and comes
	// back at once unless events have been coming in quick succession, or
	// after Wake. In a bulk transfer others may have the processor meanwhile.
	Spin(events []Event, bulk bool) (int, error)
	Wake()
	Close() error
}

// Config of a Shard; the zero value uses the kernel's clock and epoll.
type Config struct {
	Clock  Clock
	Poller Poller
}

// Shard is one event loop. All methods but those noted as such belong to the
// shard's own thread, or to the goroutine that builds the shard before Serve.
type Shard struct {
	clock  Clock
	poller Poller
	now    time.Duration

	watches []*Watch // by descriptor; nil: not watched
	serial  uint32
	timers  timers
	run     []Task // runnable in this turn
	next    []Task // runnable in the next
	idle    []Task // to run before sleeping
	events  [eventBatch]Event

	bulkUntil time.Duration // when a transfer in bulk is taken to have ended

	sleeping atomic.Bool // set while Wait may block; the goroutine that clears it calls Wake

	mu     sync.Mutex
	posted []Task
	spare  []Task
	closed bool
}

// eventBatch bounds how many descriptors are handled before timers and posted
// tasks get their turn. 128 events are 1.5 kB of the shard and, at about 1 us
// each, a tenth of a millisecond.
const eventBatch = 128

// bulkFor outlasts the turns of a bulk transfer in which a socket is full and nothing moves,
// and the slices of other threads between them, most of which took 0.5 to 1 ms.
const bulkFor = 10 * time.Millisecond

// New makes a shard. It holds descriptors until Close.
func New(cfg Config) (*Shard, error) {
	s := &Shard{clock: cfg.Clock, poller: cfg.Poller}
	if s.clock == nil {
		s.clock = monotonic{start: time.Now()}
	}
	if s.poller == nil {
		p, err := newEpoll()
		if err != nil {
			return nil, fmt.Errorf("open poller: %w", err)
		}
		s.poller = p
	}
	s.now = s.clock.Now()
	return s, nil
}

// Serve runs the loop until ctx ends or the poller fails. The calling
// goroutine is locked to its thread meanwhile: the scheduler then never moves
// the loop, and a wake-up of the descriptor is a wake-up of the loop.
func (s *Shard) Serve(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer yieldToWoken()()
	stop := context.AfterFunc(ctx, func() { s.Post(TaskFunc(func() {})) })
	defer stop()
	for ctx.Err() == nil {
		if err := s.Turn(-1); err != nil {
			return err
		}
	}
	return nil
}

// Turn runs one turn of the loop, waiting at most wait (negative: without
// limit) when there is nothing to do. Serve is a loop of Turns; tests call it
// by themselves.
func (s *Shard) Turn(wait time.Duration) error {
	s.takePosted()
	s.now = s.clock.Now()
	s.fireTimers()

	s.run, s.next = s.next, s.run[:0]
	for i, t := range s.run {
		s.run[i] = nil
		t.Run()
	}

	n, err := s.poll(wait)
	if err != nil {
		return fmt.Errorf("wait for events: %w", err)
	}
	s.now = s.clock.Now()
	for i := range s.events[:n] {
		e := &s.events[i]
		if w := s.watches[e.FD]; w != nil && w.serial == e.Serial {
			w.handler.Ready(e.Events)
		}
	}
	return nil
}

// poll asks the poller, sleeping only if nothing became runnable and no post or
// timer slipped in: the order (set sleeping, look at posted and timers, wait)
// pairs with that of Post and ArmAt (append, then clear sleeping), so a wake-up
// cannot be lost. Spin may swallow one, which sleeping still tells.
func (s *Shard) poll(wait time.Duration) (int, error) {
	if len(s.next) > 0 || wait == 0 {
		return s.poller.Wait(s.events[:], 0)
	}
	s.sleeping.Store(true)
	defer s.sleeping.Store(false)
	s.mu.Lock()
	idle := len(s.posted) == 0
	s.mu.Unlock()
	if !idle {
		return s.poller.Wait(s.events[:], 0)
	}
	if n, err := s.poller.Spin(s.events[:], s.now < s.bulkUntil); n > 0 || err != nil {
		return n, err
	}
	for _, t := range s.idle {
		t.Run()
	}
	if when, ok := s.timers.first(); ok {
		if d := max(0, when-s.clock.Now()); wait < 0 || d < wait {
			wait = d
		}
	}
	if !s.sleeping.Load() {
		wait = 0
	}
	return s.poller.Wait(s.events[:], wait)
}

// Bulk tells that a handler has moved much at once. For as long as that goes on, moving more
// at a time is better than moving it sooner.
func (s *Shard) Bulk() { s.bulkUntil = s.now + bulkFor }

// BeforeSleep adds a task that runs whenever the shard is about to sleep. It must arm a
// timer or Post for later work.
func (s *Shard) BeforeSleep(t Task) { s.idle = append(s.idle, t) }

// Post hands a task to the shard's thread; it runs in the next turn. Any
// goroutine may call it. After Close the task is dropped and Post reports
// false.
func (s *Shard) Post(t Task) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.posted = append(s.posted, t)
	s.mu.Unlock()
	s.wake()
	return true
}

// wake ends the poller's wait if there is one.
func (s *Shard) wake() {
	if s.sleeping.Load() && s.sleeping.CompareAndSwap(true, false) {
		s.poller.Wake()
	}
}

func (s *Shard) takePosted() {
	s.mu.Lock()
	posted := s.posted
	s.posted, s.spare = s.spare[:0], posted
	s.mu.Unlock()
	for i, t := range posted {
		posted[i] = nil
		s.next = append(s.next, t)
	}
}

// Again makes t runnable in the coming turn. The caller must not queue a task that
// is queued already: a flag of its own is cheaper than a set here.
func (s *Shard) Again(t Task) { s.next = append(s.next, t) }

// Now is the time at which this turn began or, for handlers of events, the time at
// which the poller woke.
func (s *Shard) Now() time.Duration { return s.now }

// Clock is the shard's clock. Any goroutine may read it.
func (s *Shard) Clock() Clock { return s.clock }

// Close releases the poller. Serve must have returned; owners close the watched
// descriptors.
func (s *Shard) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.posted, s.spare = nil, nil
	s.mu.Unlock()
	if closed {
		return nil
	}
	return s.poller.Close()
}

type monotonic struct{ start time.Time }

func (m monotonic) Now() time.Duration { return time.Since(m.start) }
