package shard

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epoll is the Poller of the kernel, with an eventfd for Wake.
type epoll struct {
	fd, wake int
	buf      [eventBatch + 1]unix.EpollEvent

	woken bool // by Wake, in the last call
	short int  // waits in a row that were short
	need  int  // so many of them before spinning
}

// Going to sleep and being woken takes longer than the answer of a peer on the
// same machine: a round trip of one byte took 91 us with two sleeps of ours in
// it and takes 68 without, a connection 240 us and 180
// (make bench ROWS=rtt-tcp,connect-1). So where events have been coming in quick
// succession, the next one is waited for awake.
const (
	// spinFor bounds that. 20 us were too short for most answers and worth
	// nothing; 30 are worth as much as 50 on a good day.
	spinFor = 50 * time.Microsecond
	// shortWait is a sleep that spinning would have spared: spinFor, and what a
	// wake-up takes.
	shortWait = 100 * time.Microsecond
	// spinAfter short sleeps in a row it begins. Each time that it was in vain
	// twice as many are asked for, up to spinAtMost: the processor's time that
	// is lost by guessing wrong stays below spinFor in 256 wake-ups, and a
	// program that is at rest never spins.
	spinAfter  = 4
	spinAtMost = 256
)

func newEpoll() (*epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	e := &epoll{fd: fd, wake: wake, need: spinAfter}
	// Edge-triggered, and so never read: a full counter takes 2^64 writes.
	if err := e.Add(wake, unix.EPOLLIN|unix.EPOLLET, 0); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *epoll) ctl(op, fd int, events, serial uint32) error {
	return unix.EpollCtl(e.fd, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(serial)})
}

func (e *epoll) Add(fd int, events, serial uint32) error {
	return e.ctl(unix.EPOLL_CTL_ADD, fd, events, serial)
}

func (e *epoll) Modify(fd int, events, serial uint32) error {
	return e.ctl(unix.EPOLL_CTL_MOD, fd, events, serial)
}

func (e *epoll) Remove(fd int) error { return e.ctl(unix.EPOLL_CTL_DEL, fd, 0, 0) }

// Spin implements Poller.
func (e *epoll) Spin(events []Event) (int, error) {
	if e.short < e.need {
		return 0, nil
	}
	for begun := time.Now(); ; {
		e.woken = false
		n, err := e.collect(events, e.wait(len(events), 0))
		if n > 0 || err != nil || e.woken {
			e.need = max(spinAfter, e.need/2)
			return n, err
		}
		if time.Since(begun) > spinFor {
			e.short, e.need = 0, min(2*e.need, spinAtMost)
			return 0, nil
		}
		// Who has the event to make may be waiting for this processor.
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
}

// Wait takes the raw system call when it does not sleep, which spares the
// scheduler's bookkeeping, and the ordinary one when it does: a thread asleep
// in a raw call would hold up the garbage collector.
func (e *epoll) Wait(events []Event, timeout time.Duration) (int, error) {
	if timeout == 0 {
		return e.collect(events, e.wait(len(events), 0))
	}
	begun := time.Now()
	n, err := e.collect(events, e.wait(len(events), timeout))
	if time.Since(begun) < shortWait {
		e.short++
	} else {
		e.short = 0
	}
	return n, err
}

// result is what epoll_pwait returns.
type result struct {
	n     uintptr
	errno unix.Errno
}

func (e *epoll) wait(size int, timeout time.Duration) (r result) {
	size = min(size, len(e.buf))
	if timeout == 0 {
		r.n, _, r.errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.buf[0])), uintptr(size), 0, 0, 0)
		return r
	}
	ms := -1
	if timeout > 0 {
		// Rounded up, or a timer due within the millisecond would spin.
		ms = int(min((timeout+time.Millisecond-1)/time.Millisecond, 1<<30))
	}
	r.n, _, r.errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.buf[0])), uintptr(size), uintptr(ms), 0, 0)
	return r
}

func (e *epoll) collect(events []Event, r result) (int, error) {
	if r.errno == unix.EINTR {
		return 0, nil
	}
	if r.errno != 0 {
		return 0, r.errno
	}
	n := 0
	for i := range e.buf[:r.n] {
		b := &e.buf[i]
		if int(b.Fd) == e.wake {
			e.woken = true
			continue
		}
		events[n] = Event{FD: b.Fd, Serial: uint32(b.Pad), Events: b.Events}
		n++
	}
	return n, nil
}

func (e *epoll) Wake() {
	one := uint64(1)
	unix.RawSyscall(unix.SYS_WRITE, uintptr(e.wake), uintptr(unsafe.Pointer(&one)), 8)
}

func (e *epoll) Close() error {
	unix.Close(e.wake)
	return unix.Close(e.fd)
}
