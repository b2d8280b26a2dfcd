package forwardertest

import (
	"math/rand"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"epiphyte/stack"
)

// Lossy is a Device on a bad day: of the frames in either direction some are
// lost, some come twice and some change places, as a seed decides.
type Lossy struct {
	*Device
	// Of this many frames one is lost, one doubled, one delayed; zero: none.
	Lose, Double, Delay int

	mu     sync.Mutex
	random *rand.Rand // guarded by mu
	late   []byte     // guarded by mu; to the guest, behind the next frame
	again  []byte     // guarded by mu; from the guest, at the next read
}

var _ stack.Device = (*Lossy)(nil)

// Worsen makes a Lossy of a Device.
func Worsen(d *Device, seed int64) *Lossy {
	return &Lossy{Device: d, Lose: 60, Double: 60, Delay: 60, random: rand.New(rand.NewSource(seed))}
}

// chance is true once in n times.
func (l *Lossy) chance(n int) bool { return n > 0 && l.random.Intn(n) == 0 }

// Readv implements stack.Device.
func (l *Lossy) Readv(iov []unix.Iovec) (int, unix.Errno) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.again != nil {
		n := scatter(iov, l.again)
		l.again = nil
		return n, 0
	}
	for {
		n, errno := l.Device.Readv(iov)
		switch {
		case errno != 0:
			return n, errno
		case l.chance(l.Lose):
			continue
		case l.chance(l.Double):
			l.again = gather(iov, n)
		case l.chance(l.Delay):
			// Behind the one that comes next, if one waits.
			first := gather(iov, n)
			if m, errno := l.Device.Readv(iov); errno == 0 {
				l.again = first
				return m, 0
			}
			n = scatter(iov, first)
		}
		return n, 0
	}
}

// Writev implements stack.Device.
func (l *Lossy) Writev(iov []unix.Iovec) (int, unix.Errno) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := 0
	for _, v := range iov {
		size += int(v.Len)
	}
	switch {
	case l.chance(l.Lose):
		return size, 0
	case l.chance(l.Double):
		l.Device.Writev(iov)
	case l.late == nil && l.chance(l.Delay):
		l.late = gather(iov, size)
		return size, 0
	}
	n, errno := l.Device.Writev(iov)
	if l.late != nil {
		unix.Write(l.fd, l.late)
		l.late = nil
	}
	return n, errno
}

// gather copies the first n bytes that iov points to.
func gather(iov []unix.Iovec, n int) []byte {
	b := make([]byte, 0, n)
	for _, v := range iov {
		if v.Len > 0 {
			part := unsafe.Slice(v.Base, v.Len)
			b = append(b, part[:min(len(part), n-len(b))]...)
		}
	}
	return b
}

// scatter copies b to where iov points.
func scatter(iov []unix.Iovec, b []byte) int {
	n := 0
	for _, v := range iov {
		if v.Len > 0 {
			n += copy(unsafe.Slice(v.Base, v.Len), b[n:])
		}
	}
	return n
}
