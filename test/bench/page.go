package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// page is what the runner and the generators of one sample share. Each field is
// written by one side, and read by the others at any time.
type page struct {
	rate atomic.Uint64 // UDP packets per second to send; written by the runner
	_    [56]byte

	ready  atomic.Uint64 // connections that have carried a byte
	errors atomic.Uint64 // operations that have failed
	sent   atomic.Uint64 // UDP packets sent
	timed  atomic.Uint64 // operations timed: entries of delays that hold
	client atomic.Uint32 // IPv4 address of the last client accepted, as the server sees it
	_      [4]byte
	first  atomic.Int64 // when the first byte came back, by [monotonic]
	_      [16]byte

	done   [maxThreads]counter // bytes, packets or operations, by thread
	delays [maxDelays]uint32   // of operations, nanoseconds
}

// counter has a cache line to itself, so that threads do not share one.
type counter struct {
	atomic.Uint64
	_ [56]byte
}

const (
	maxThreads = 64
	// maxDelays are as many as loopback does in some seconds; further ones are
	// not kept.
	maxDelays = 1 << 18

	unpaced = ^uint64(0) // a rate: as fast as the sender can
)

// total of what all threads have done.
func (p *page) total() (sum uint64) {
	for i := range p.done {
		sum += p.done[i].Load()
	}
	return sum
}

// took keeps the delay of one operation. One thread calls it.
func (p *page) took(d time.Duration) {
	if n := p.timed.Load(); n < maxDelays {
		p.delays[n] = uint32(min(d.Nanoseconds(), 1<<32-1))
		p.timed.Store(n + 1)
	}
}

// newPage makes a page and the file by which others map it.
func newPage() (*page, *os.File, error) {
	fd, err := unix.MemfdCreate("bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("make shared page: %w", err)
	}
	f := os.NewFile(uintptr(fd), "page")
	if err := f.Truncate(int64(unsafe.Sizeof(page{}))); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("make shared page: %w", err)
	}
	p, err := mapPage(fd)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return p, f, nil
}

func mapPage(fd int) (*page, error) {
	mem, err := unix.MmapPtr(fd, 0, nil, unsafe.Sizeof(page{}), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map shared page: %w", err)
	}
	return (*page)(mem), nil
}

func (p *page) unmap() error { return unix.MunmapPtr(unsafe.Pointer(p), unsafe.Sizeof(page{})) }
