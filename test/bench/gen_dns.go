package main

import (
	"encoding/binary"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// query asks for the address of bench.example; its first two bytes are the id
// (RFC 1035, section 4.1).
func query(id uint16) []byte {
	q := []byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05bench\x07example\x00\x00\x01\x00\x01")
	binary.BigEndian.PutUint16(q, id)
	return q
}

// answer turns a query with one question into its answer, an address.
func answer(q []byte) []byte {
	q[2] |= 0x80 // QR
	q[3] |= 0x80 // RA
	binary.BigEndian.PutUint16(q[6:], 1)
	binary.BigEndian.PutUint16(q[10:], 0) // no OPT record in it
	return append(q, "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc6\x33\x64\x01"...)
}

// serveDNS answers every query by the same address.
func serveDNS(load, *page, int) error {
	return serveUDP(func(b []byte) []byte {
		if len(b) < len(query(0)) {
			return nil
		}
		return answer(b[:len(query(0))])
	})
}

// newDNSClient is a client whose threads share a socket: whichever reads first
// takes an answer, so as many queries are under way as there are threads.
func newDNSClient() generator {
	var once sync.Once
	var fd int
	var err error
	return func(l load, p *page, thread int) error {
		once.Do(func() { fd, err = dialDNS(l) })
		if err != nil {
			return err
		}
		b := make([]byte, 512)
		for id := uint16(thread); ; id += maxThreads {
			if err := ask(fd, id, b, p, thread); err != nil {
				return err
			}
		}
	}
}

// runDNSFresh asks each time as the resolver of a C library does, from a new socket.
func runDNSFresh(l load, p *page, thread int) error {
	b := make([]byte, 512)
	for id := uint16(thread); ; id += maxThreads {
		fd, err := dialDNS(l)
		if err == nil {
			err = ask(fd, id, b, p, thread)
			closeFD(fd)
		}
		if err != nil {
			return err
		}
	}
}

// dialDNS makes a socket that waits for an answer as long as an echo does.
func dialDNS(l load) (int, error) {
	fd, e := socket(unix.SOCK_DGRAM, l.Target)
	if e != 0 {
		return -1, failed("connect", 0, e)
	}
	patience := unix.NsecToTimeval(lost)
	return fd, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
}

// ask sends a query and takes an answer. One that does not come is counted.
func ask(fd int, id uint16, b []byte, p *page, thread int) error {
	if n, e := write(fd, query(id)); e != 0 {
		return failed("send", n, e)
	}
	n, e := read(fd, b)
	switch {
	case e == unix.EAGAIN:
		p.errors.Add(1)
		return nil
	case e != 0:
		return failed("receive", n, e)
	case n <= len(query(0)) || b[2]&0x80 == 0 || b[3]&0x0f != 0:
		return errors.New("not an answer")
	}
	p.done[thread].Add(1)
	if p.ready.Load() == 0 {
		p.ready.Add(1)
	}
	return nil
}
