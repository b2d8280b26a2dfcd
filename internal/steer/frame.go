package steer

import (
	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// Sizes of a frame's memory. Most frames are small: acknowledgements, and segments of an
// ordinary MTU.
const (
	smallFrame = 2048
	largeFrame = 65536 + 2048
)

// frame is a copy of what was read, virtio-net header first if there is one.
type frame struct {
	data []byte
	size int
}

func kindOf(size int) int {
	if size <= smallFrame {
		return 0
	}
	return 1
}

// gather copies the first n bytes of iov.
func (g *Group) gather(iov []unix.Iovec, n int) *frame {
	f, _ := g.spares[kindOf(n)].Get().(*frame)
	if f == nil {
		f = &frame{data: make([]byte, [...]int{smallFrame, largeFrame}[kindOf(n)])}
	}
	f.size = 0
	for i := range iov {
		part := sockio.Bytes(&iov[i])
		f.size += copy(f.data[f.size:], part[:min(len(part), n-f.size)])
	}
	return f
}

// scatter copies the frame into iov.
func (f *frame) scatter(iov []unix.Iovec) int {
	n := 0
	for i := range iov {
		n += copy(sockio.Bytes(&iov[i]), f.data[n:f.size])
	}
	return n
}

func (g *Group) spare(f *frame) { g.spares[kindOf(len(f.data))].Put(f) }
