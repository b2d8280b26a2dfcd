// Package shardtest drives a shard event by event: a clock that moves only
// when told, and a poller that reports only what a test says is ready.
//
// # Theory of operation
//
// A test builds a shard over a Clock and a Poller, calls Shard.Turn by itself
// and looks at what ran. The poller keeps the set of descriptors exactly as
// epoll would, refuses what epoll refuses (a second Add, a Modify or Remove of
// a stranger), and remembers how long the shard was ready to sleep, which is
// how "an idle shard makes no wake-up" becomes an assertion. It never sleeps
// itself: a wait that would block comes back at once with no events, and time
// stands still until the test moves it.
//
// Descriptor numbers mean nothing here, so a test may use any. Nothing of this
// package is for production.
package shardtest

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// Clock is a clock that stands still. Its zero value reads zero. Any goroutine
// may use it.
type Clock struct {
	mu  sync.Mutex
	now time.Duration // guarded by mu
}

// Now implements shard.Clock.
func (c *Clock) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock on by d.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += d
}

type interest struct{ events, serial uint32 }

// Poller is a shard.Poller whose descriptors become ready when a test says so.
// Its zero value is ready to use. Any goroutine may use it.
type Poller struct {
	mu      sync.Mutex
	set     map[int]interest // guarded by mu
	pending []shard.Event    // guarded by mu
	waits   []time.Duration  // guarded by mu
	bulk    bool             // guarded by mu
	wakes   int              // guarded by mu
	closed  bool             // guarded by mu
	err     error            // guarded by mu
}

var _ shard.Poller = (*Poller)(nil)

// Add implements shard.Poller. EEXIST: the descriptor is there already.
func (p *Poller) Add(fd int, events, serial uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd < 0 {
		return unix.EBADF
	}
	if _, ok := p.set[fd]; ok {
		return unix.EEXIST
	}
	if p.set == nil {
		p.set = make(map[int]interest)
	}
	p.set[fd] = interest{events, serial}
	return nil
}

// Modify implements shard.Poller. ENOENT: the descriptor is not there.
func (p *Poller) Modify(fd int, events, serial uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.set[fd]; !ok {
		return unix.ENOENT
	}
	p.set[fd] = interest{events, serial}
	return nil
}

// Remove implements shard.Poller. ENOENT: the descriptor is not there.
func (p *Poller) Remove(fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.set[fd]; !ok {
		return unix.ENOENT
	}
	p.remove(fd)
	return nil
}

func (p *Poller) remove(fd int) {
	delete(p.set, fd)
	p.pending = slices.DeleteFunc(p.pending, func(e shard.Event) bool { return int(e.FD) == fd })
}

// CloseFD does what closing the last reference of a descriptor does to epoll:
// its entry goes without a Remove, and the number may be added anew.
func (p *Poller) CloseFD(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(fd)
}

// Ready makes events of the descriptor pending for the next Wait and reports
// whether it is of interest to anybody. As with epoll, errors and hang-ups are
// reported unasked.
func (p *Poller) Ready(fd int, events uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	in, ok := p.set[fd]
	events &= in.events | unix.EPOLLERR | unix.EPOLLHUP
	if !ok || events == 0 {
		return false
	}
	p.pending = append(p.pending, shard.Event{FD: int32(fd), Serial: in.serial, Events: events})
	return true
}

// Wait implements shard.Poller. It delivers what is pending, in the order of
// Ready, and never sleeps.
func (p *Poller) Wait(events []shard.Event, timeout time.Duration) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waits) < maxWaits {
		p.waits = append(p.waits, timeout)
	}
	if p.err != nil {
		return 0, p.err
	}
	n := copy(events, p.pending)
	p.pending = append(p.pending[:0], p.pending[n:]...)
	return n, nil
}

// Spin implements shard.Poller: it never pays.
func (p *Poller) Spin(_ []shard.Event, bulk bool) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bulk = bulk
	return 0, nil
}

// Bulk reports whether the shard last waited for more of a bulk transfer.
func (p *Poller) Bulk() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bulk
}

// maxWaits bounds what Waits gives when nobody asks for long.
const maxWaits = 1 << 16

// Wake implements shard.Poller. It is counted.
func (p *Poller) Wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakes++
}

// Close implements shard.Poller.
func (p *Poller) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return nil
}

// Fail makes every later Wait return err.
func (p *Poller) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// Waits returns the timeouts of the calls of Wait since the last call of
// Waits: negative for one that would have slept without limit.
func (p *Poller) Waits() []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := slices.Clone(p.waits)
	p.waits = p.waits[:0]
	return w
}

// Wakes returns how often Wake was called.
func (p *Poller) Wakes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wakes
}

// Watched returns the descriptors in the set, in order.
func (p *Poller) Watched() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	fds := make([]int, 0, len(p.set))
	for fd := range p.set {
		fds = append(fds, fd)
	}
	slices.Sort(fds)
	return fds
}

// Closed reports whether Close was called.
func (p *Poller) Closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}
