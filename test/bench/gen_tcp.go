package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// serveSink accepts one connection and reads it.
func serveSink(l load, p *page, thread int) error {
	fd, e := accept(p)
	if e != 0 {
		return failed("accept", 0, e)
	}
	p.ready.Add(1)
	return sink(fd, l, p, thread)
}

func sink(fd int, l load, p *page, thread int) error {
	b := make([]byte, l.Size)
	for {
		n, e := read(fd, b)
		if n <= 0 || e != 0 {
			return failed("read", n, e)
		}
		p.done[thread].Add(uint64(n))
	}
}

// serveSource accepts one connection and fills it.
func serveSource(l load, p *page, thread int) error {
	fd, e := accept(p)
	if e != 0 {
		return failed("accept", 0, e)
	}
	p.ready.Add(1)
	return source(fd, l)
}

func source(fd int, l load) error {
	b := make([]byte, l.Size)
	for {
		if n, e := write(fd, b); e != 0 {
			return failed("write", n, e)
		}
	}
}

func runSource(l load, _ *page, _ int) error {
	fd, e := socket(unix.SOCK_STREAM, l.Target)
	if e != 0 {
		return failed("connect", 0, e)
	}
	return source(fd, l)
}

func runSink(l load, p *page, thread int) error {
	fd, e := socket(unix.SOCK_STREAM, l.Target)
	if e != 0 {
		return failed("connect", 0, e)
	}
	return sink(fd, l, p, thread)
}

// serveEcho accepts one connection and sends back what comes.
func serveEcho(l load, p *page, _ int) error {
	fd, e := accept(p)
	if e != 0 {
		return failed("accept", 0, e)
	}
	if err := noDelay(fd); err != nil {
		return err
	}
	b := make([]byte, l.Size)
	for {
		n, e := read(fd, b)
		if n <= 0 || e != 0 {
			return failed("read", n, e)
		}
		if n, e = write(fd, b[:n]); e != 0 {
			return failed("write", n, e)
		}
	}
}

// runEcho times each byte to and fro.
func runEcho(l load, p *page, thread int) error {
	fd, e := socket(unix.SOCK_STREAM, l.Target)
	if e != 0 {
		return failed("connect", 0, e)
	}
	if err := noDelay(fd); err != nil {
		return err
	}
	b := make([]byte, l.Size)
	for first := true; ; first = false {
		begin := time.Now()
		if n, e := write(fd, b); e != 0 {
			return failed("write", n, e)
		}
		for got := 0; got < len(b); {
			n, e := read(fd, b[got:])
			if n <= 0 || e != 0 {
				return failed("read", n, e)
			}
			got += n
		}
		p.took(time.Since(begin))
		p.done[thread].Add(1)
		if first {
			p.ready.Add(1)
		}
	}
}

// serveConnect answers one byte on each connection and waits for its end, so
// that the client is the one that closes.
func serveConnect(_ load, p *page, _ int) error {
	b := make([]byte, 1)
	for {
		fd, e := accept(p)
		if e != 0 {
			return failed("accept", 0, e)
		}
		if n, e := read(fd, b); n == 1 && e == 0 {
			if n, e = write(fd, b); n == 1 && e == 0 {
				read(fd, b)
			}
		}
		closeFD(fd)
	}
}

// runConnect makes connection after connection. One that fails is counted and
// not waited for.
func runConnect(l load, p *page, thread int) error {
	for first := true; ; {
		fd, e := exchange(l)
		if e != 0 {
			p.errors.Add(1)
			sleep(1e6)
			continue
		}
		closeFD(fd)
		p.done[thread].Add(1)
		if first {
			p.ready.Add(1)
			first = false
		}
	}
}

// runFirst tries until a byte has gone to and fro, and notes when that was.
// Until there is a network, connecting fails at once.
func runFirst(l load, p *page, _ int) error {
	for {
		fd, e := exchange(l)
		if e == 0 {
			p.first.Store(monotonic())
			p.ready.Add(1)
			read(fd, make([]byte, 1)) // until killed
		}
		sleep(50e3)
	}
}

// exchange connects and sends one byte to and fro.
func exchange(l load) (fd int, e unix.Errno) {
	if fd, e = socket(unix.SOCK_STREAM, l.Target); e != 0 {
		return -1, e
	}
	b := make([]byte, 1)
	if _, e = write(fd, b); e == 0 {
		var n int
		if n, e = read(fd, b); n == 0 && e == 0 {
			e = unix.ECONNRESET // closed before the answer
		}
	}
	if e != 0 {
		closeFD(fd)
		return -1, e
	}
	return fd, 0
}

// serveHold answers one byte on each connection and keeps it.
func serveHold(_ load, p *page, _ int) error {
	b := make([]byte, 1)
	for {
		fd, e := accept(p)
		if e != 0 {
			return failed("accept", 0, e)
		}
		if n, e := read(fd, b); n == 1 && e == 0 {
			write(fd, b)
		}
	}
}

// runHold opens connections, one after the other, and keeps them.
func runHold(l load, p *page, _ int) error {
	for range l.Threads {
		if _, e := exchange(l); e != 0 {
			return failed("connect", 0, e)
		}
		p.ready.Add(1)
	}
	for {
		sleep(1e9)
	}
}
