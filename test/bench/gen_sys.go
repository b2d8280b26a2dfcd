package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls that the scheduler is not told of: a thread keeps its processor
// while it blocks, as a C program would. All restart after EINTR.

func raw3(trap, a, b, c uintptr) (int, unix.Errno) {
	for {
		n, _, e := unix.RawSyscall(trap, a, b, c)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

func raw6(trap, a, b, c, d, e, f uintptr) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(trap, a, b, c, d, e, f)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

func read(fd int, b []byte) (int, unix.Errno) {
	return raw3(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

func write(fd int, b []byte) (int, unix.Errno) {
	return raw3(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

func closeFD(fd int) { raw3(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// accept notes in the page who the client is.
func accept(p *page) (int, unix.Errno) {
	var from unix.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(from))
	fd, e := raw3(unix.SYS_ACCEPT, socketFD, uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
	if e == 0 {
		p.client.Store(binary.BigEndian.Uint32(from.Addr[:]))
	}
	return fd, e
}

// socket makes a blocking IPv4 socket connected to addr.
func socket(typ int, addr netip.AddrPort) (int, unix.Errno) {
	fd, e := raw3(unix.SYS_SOCKET, unix.AF_INET, uintptr(typ|unix.SOCK_CLOEXEC), 0)
	if e != 0 {
		return -1, e
	}
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], addr.Port())
	if _, e := raw3(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa)); e != 0 {
		closeFD(fd)
		return -1, e
	}
	return fd, 0
}

// noDelay sends single bytes at once.
func noDelay(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// sleep pauses the thread for some nanoseconds.
func sleep(ns int64) {
	ts := unix.NsecToTimespec(ns)
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}

// monotonic is the clock that all processes share, in ns.
func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}

// failed names what a thread could not do.
func failed(verb string, n int, e unix.Errno) error {
	if e == 0 {
		return fmt.Errorf("%s: ended after %d bytes", verb, n)
	}
	return fmt.Errorf("%s: %w", verb, e)
}
