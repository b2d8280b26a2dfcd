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

	woken bool // by Wake, since Spin has begun
	spin  spin
	brief bool // the last sleep was shorter than briefSleep
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
func (e *epoll) Spin(events []Event, bulk bool) (int, error) {
	if !e.spin.worthTrying() {
		return 0, nil
	}
	begun := time.Now()
	for last := begun; ; {
		e.woken = false
		n, err := e.poll(events)
		now := time.Now()
		if e.spin.looked(n > 0 || err != nil || e.woken, bulk, now.Sub(last), now.Sub(begun)) {
			return n, err
		}
		last = now
		// The program that will cause the event may be waiting for this processor.
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
}

// briefSleep bounds a sleep that Go's scheduler does not know of.
const briefSleep = 10 * time.Millisecond

// Wait implements Poller. After a sleep that was brief the next one is likely to be,
// and is taken in a raw system call, which Go's scheduler does not see. Told of one
// sleep after another, the runtime's monitor thread would wake every 0.1 ms to look
// whether the thread has come back: 7 % of the CPU time of a short connection and 12
// to 17 % of that of a datagram (make bench ROWS=connect-1,udp-64,udp-1400, with and
// without, 5 rounds).
//
// The thread keeps its P meanwhile, which is why such a sleep ends after briefSleep,
// and why there is none where the process has a single P. The garbage collector
// interrupts it by a signal. Where timers end most sleeps, sleeps that a timer bounds must be
// hidden, too: 0.88 of the CPU time of a published connection
// (make bench ROWS=pasta-published-host-connect-16).
func (e *epoll) Wait(events []Event, timeout time.Duration) (int, error) {
	if timeout == 0 {
		return e.poll(events)
	}
	begun := time.Now()
	n, errno := e.sleep(events, timeout)
	slept := time.Since(begun)
	e.brief = slept < briefSleep
	e.spin.slept(slept)
	return e.collect(events, n, errno)
}

func (e *epoll) sleep(events []Event, timeout time.Duration) (uintptr, unix.Errno) {
	if e.brief && runtime.GOMAXPROCS(0) > 1 {
		first := briefSleep
		if timeout > 0 {
			first = min(first, timeout)
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.buf[0])), e.room(events), milliseconds(first), 0, 0)
		if n > 0 || errno != 0 || first == timeout {
			return n, errno
		}
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.buf[0])), e.room(events), milliseconds(timeout), 0, 0)
	return n, errno
}

// milliseconds is a timeout as epoll_pwait(2) takes it; negative: none. It is rounded
// up, or a timer due within the millisecond would make the loop spin.
func milliseconds(timeout time.Duration) uintptr {
	ms := -1
	if timeout >= 0 {
		ms = int(min((timeout+time.Millisecond-1)/time.Millisecond, 1<<30))
	}
	return uintptr(ms)
}

// poll looks for events without sleeping. The raw system call spares Go's
// scheduler its bookkeeping, and would keep other goroutines from running if it
// slept.
func (e *epoll) poll(events []Event) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.buf[0])), e.room(events), 0, 0, 0)
	return e.collect(events, n, errno)
}

// room is how many events to ask the kernel for.
func (e *epoll) room(events []Event) uintptr { return uintptr(min(len(events), len(e.buf))) }

// collect translates the kernel's first n events, or its error.
func (e *epoll) collect(events []Event, n uintptr, errno unix.Errno) (int, error) {
	if errno == unix.EINTR {
		return 0, nil
	}
	if errno != 0 {
		return 0, errno
	}
	count := 0
	for i := range e.buf[:n] {
		b := &e.buf[i]
		if int(b.Fd) == e.wake {
			e.woken = true
			continue
		}
		events[count] = Event{FD: b.Fd, Serial: uint32(b.Pad), Events: b.Events}
		count++
	}
	return count, nil
}

func (e *epoll) Wake() {
	one := uint64(1)
	unix.RawSyscall(unix.SYS_WRITE, uintptr(e.wake), uintptr(unsafe.Pointer(&one)), 8)
}

func (e *epoll) Close() error {
	unix.Close(e.wake)
	return unix.Close(e.fd)
}
