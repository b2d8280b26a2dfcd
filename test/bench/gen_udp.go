package main

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// serveEchoUDP answers whoever asks, so its socket is not connected.
func serveEchoUDP(_ load, _ *page, _ int) error {
	return serveUDP(func(b []byte) []byte { return b })
}

// serveUDP sends to whoever sends a datagram what reply makes of it, if anything.
func serveUDP(reply func([]byte) []byte) error {
	b := make([]byte, 1<<16)
	var from unix.RawSockaddrAny
	for {
		size := uint32(unix.SizeofSockaddrAny)
		n, e := raw6(unix.SYS_RECVFROM, socketFD, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0,
			uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
		if e != 0 {
			return failed("receive", n, e)
		}
		a := reply(b[:n])
		if len(a) == 0 {
			continue
		}
		if n, e = raw6(unix.SYS_SENDTO, socketFD, uintptr(unsafe.Pointer(&a[0])), uintptr(len(a)), 0,
			uintptr(unsafe.Pointer(&from)), uintptr(size)); e != 0 {
			return failed("send", n, e)
		}
	}
}

// lost is how long a client waits for the answer to a datagram, in ns.
const lost = 200e6

func runEchoUDP(l load, p *page, thread int) error {
	fd, e := socket(unix.SOCK_DGRAM, l.Target)
	if e != 0 {
		return failed("connect", 0, e)
	}
	patience := unix.NsecToTimeval(lost)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return err
	}
	b := make([]byte, l.Size)
	for first := true; ; {
		begin := time.Now()
		if n, e := write(fd, b); e != 0 {
			return failed("send", n, e)
		}
		if n, e := read(fd, b); e == unix.EAGAIN {
			p.errors.Add(1)
			continue
		} else if e != 0 {
			return failed("receive", n, e)
		}
		p.took(time.Since(begin))
		p.done[thread].Add(1)
		if first {
			p.ready.Add(1)
			first = false
		}
	}
}

func serveSinkUDP(l load, p *page, thread int) error { return sinkUDP(socketFD, l, p, thread) }

// runSinkUDP asks until it is sent datagrams, and then counts them.
func runSinkUDP(l load, p *page, thread int) error {
	fd, e := socket(unix.SOCK_DGRAM, l.Target)
	if e != 0 {
		return failed("connect", 0, e)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20) // as much as is granted
	asking := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if n, e := write(fd, []byte{0}); e != 0 {
			return failed("send", n, e)
		}
		if n, err := unix.Poll(asking, lost/1e6); n > 0 {
			return sinkUDP(fd, l, p, thread)
		} else if err != nil && err != unix.EINTR {
			return fmt.Errorf("poll: %w", err)
		}
	}
}

// sinkUDP counts datagrams. One that is sent bursts is sent to by QUIC, and takes
// what the kernel has joined again, as QUIC receivers do.
func sinkUDP(fd int, l load, p *page, thread int) error {
	if l.Burst > 0 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
			return fmt.Errorf("set UDP_GRO: %w", err)
		}
	}
	b := make([]byte, 1<<16)
	for first := true; ; first = false {
		n, e := read(fd, b)
		if e != 0 {
			return failed("receive", n, e)
		}
		if first {
			p.ready.Add(1)
		}
		p.done[thread].Add(uint64(max(1, (n+l.Size-1)/l.Size)))
	}
}

// Pacing: every interval the packets due are sent back to back, at most burst.
const (
	interval = 200e3 // ns
	burst    = 256
)

// runSourceUDP sends at the rate of the page, which changes while it runs.
func runSourceUDP(l load, p *page, _ int) error {
	fd, e := socket(unix.SOCK_DGRAM, l.Target)
	if e != 0 {
		return failed("connect", 0, e)
	}
	return sourceUDP(fd, l, p)
}

// serveSourceUDP sends to the first that asks.
func serveSourceUDP(l load, p *page, _ int) error {
	_, client, err := unix.Recvfrom(socketFD, make([]byte, 1), 0)
	if err == nil {
		err = unix.Connect(socketFD, client)
	}
	if err != nil {
		return fmt.Errorf("wait for client: %w", err)
	}
	return sourceUDP(socketFD, l, p)
}

func sourceUDP(fd int, l load, p *page) error {
	step := uint64(max(1, l.Burst))
	b := make([]byte, l.Size*int(step))
	if l.Burst > 0 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, l.Size); err != nil {
			return fmt.Errorf("set UDP_SEGMENT: %w", err)
		}
	}
	var rate uint64
	var begin time.Time // when the rate was set
	var sent uint64     // since then
	for {
		if r := p.rate.Load(); r != rate {
			rate, begin, sent = r, time.Now(), 0
		}
		due := uint64(burst)
		if rate != unpaced {
			due = uint64(time.Since(begin).Seconds() * float64(rate))
			if due < sent+step {
				sleep(interval)
				continue
			}
			// A sender that was kept from running does not make up for it.
			if due -= sent; due > burst {
				sent += due - burst
				due = burst
			}
		}
		for ; due >= step; due -= step {
			if _, e := write(fd, b); e == 0 {
				p.sent.Add(step)
			} else {
				p.errors.Add(1)
			}
			sent += step
		}
	}
}
