package pcap

import (
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

// MaxCaptures bounds the captures of a Tee at once.
const MaxCaptures = 4

// ErrTooMany refuses a capture beyond MaxCaptures.
var ErrTooMany = errors.New("as many captures as may be are running already; end one")

// Tee copies what crosses its devices into the captures that are running. The zero value
// has none. Any goroutine may use it.
type Tee struct {
	running atomic.Int32 // captures
	lost    atomic.Uint64

	mu       sync.Mutex
	captures []*Capture // guarded by mu
}

// Running reports whether there is a capture.
func (t *Tee) Running() bool { return t.running.Load() > 0 }

// Lost is how many frames are missing in captures because those were written too slowly.
func (t *Tee) Lost() uint64 { return t.lost.Load() }

// Direction says which frames of a device are copied.
type Direction uint8

// The directions.
const (
	FromGuest   Direction = 1 << iota // read from the device
	TowardGuest                       // written to it
	Both        = FromGuest | TowardGuest
)

// Device wraps dev so that what crosses it is copied.
func (t *Tee) Device(dev stack.Device, which Direction) stack.Device {
	d := &device{Device: dev, tee: t, which: which}
	if dev.VNetHdr() {
		d.prefix = virtioSize
	}
	return d
}

type device struct {
	stack.Device
	tee    *Tee
	which  Direction
	prefix int // bytes before the Ethernet header
}

// Readv implements stack.Device.
func (d *device) Readv(iov []unix.Iovec) (int, unix.Errno) {
	n, errno := d.Device.Readv(iov)
	if d.tee.Running() && d.which&FromGuest != 0 && errno == 0 && n > d.prefix {
		d.tee.mu.Lock()
		d.tee.add(iov, n, d.prefix, FromGuest)
		d.tee.mu.Unlock()
	}
	return n, errno
}

// Writev implements stack.Device.
func (d *device) Writev(iov []unix.Iovec) (int, unix.Errno) {
	if !d.tee.Running() || d.which&TowardGuest == 0 {
		return d.Device.Writev(iov)
	}
	d.tee.mu.Lock() // see Invariants
	defer d.tee.mu.Unlock()
	n, errno := d.Device.Writev(iov)
	if errno == 0 {
		d.tee.add(iov, vecSize(iov), d.prefix, TowardGuest)
	}
	return n, errno
}

func vecSize(iov []unix.Iovec) (n int) {
	for i := range iov {
		n += int(iov[i].Len)
	}
	return n
}

// add copies the frame of n bytes, prefix included, to all captures. mu is held.
func (t *Tee) add(iov []unix.Iovec, n, prefix int, dir Direction) {
	for _, c := range t.captures {
		if !c.filling.add(iov, n, prefix, c.cfg.Snaplen, dir) {
			c.lost++
			t.lost.Add(1)
		}
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// scatter copies bytes of iov, from the offset at on, until b is full.
func scatter(b []byte, iov []unix.Iovec, at int) {
	for i := range iov {
		v := sockio.Bytes(&iov[i])
		if at >= len(v) {
			at -= len(v)
			continue
		}
		b, at = b[copy(b, v[at:]):], 0
		if len(b) == 0 {
			return
		}
	}
}
