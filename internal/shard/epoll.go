package shard

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epoll is the Poller of the kernel, with an eventfd for Wake.
type epoll struct {
	fd, wake int
	buf      [eventBatch + 1]unix.EpollEvent

	woken bool // by Wake, in the last call
	spin  spin
	brief bool // the last sleep was
}

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
	e := &epoll{fd: fd, wake: wake}
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
	if !e.spin.pays() {
		return 0, nil
	}
	for begun := time.Now(); ; {
		e.woken = false
		n, err := e.collect(events, e.wait(len(events), 0, true))
		if n > 0 || err != nil || e.woken {
			e.spin.hit()
			return n, err
		}
		if time.Since(begun) > spinFor {
			e.spin.miss()
			return 0, nil
		}
		// Who has the event to make may be waiting for this processor.
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
}

// briefFor bounds a sleep that Go's scheduler is not told of.
const briefFor = 10 * time.Millisecond

// Wait takes the raw system call when it does not sleep, which spares the
// scheduler's bookkeeping, and the ordinary one when it sleeps for long: a thread
// asleep in a raw call keeps other goroutines from its P.
//
// Where the last sleep was brief, the next is likely to be, and is taken in a raw
// call too, bounded by briefFor. Told of sleep after sleep, the runtime's monitor
// takes the P away every 10 ms and then looks every 0.1 ms whether it may again:
// 9 % of a flood's CPU time (make bench ROWS=udp-1400). The garbage collector
// interrupts the call by a signal; with GODEBUG=asyncpreemptoff=1 it waits. Where
// there is only one P, which a limit of the cgroup may come to mean at any time, it is
// left to the others.
func (e *epoll) Wait(events []Event, timeout time.Duration) (int, error) {
	if timeout == 0 {
		return e.collect(events, e.wait(len(events), 0, true))
	}
	begun := time.Now()
	r := result{}
	if e.brief && (timeout < 0 || timeout > briefFor) && runtime.GOMAXPROCS(0) > 1 {
		r = e.wait(len(events), briefFor, true)
	}
	if r == (result{}) {
		r = e.wait(len(events), timeout, false)
	}
	slept := time.Since(begun)
	e.brief = slept < briefFor
	e.spin.slept(slept)
	return e.collect(events, r)
}

// result is what epoll_pwait returns.
type result struct {
	n     uintptr
	errno unix.Errno
}

func (e *epoll) wait(size int, timeout time.Duration, raw bool) (r result) {
	size = min(size, len(e.buf))
	ms := -1
	if timeout >= 0 {
		// Rounded up, or a timer due within the millisecond would spin.
		ms = int(min((timeout+time.Millisecond-1)/time.Millisecond, 1<<30))
	}
	if raw {
		r.n, _, r.errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.buf[0])), uintptr(size), uintptr(ms), 0, 0)
		return r
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
