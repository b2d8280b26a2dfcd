package bridge

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/shard"
	"epiphyte/stack"
)

// Port is a member's place on the bridge.
type Port struct {
	bridge *Bridge
	dev    stack.Device
	addr   Address
	watch  *shard.Watch

	bucket *rate.Limiter // shard's thread only, like
	warned bool          // of a spoofed frame
	asked  *asked        // nil: its connections are not followed

	removed atomic.Bool
	writers atomic.Int32 // goroutines that are writing to dev

	from, to                      traffic
	spoofed, other, rate, refused atomic.Uint64
}

// Stats count frames since Add. Bytes are from the Ethernet header on.
type Stats struct {
	// FromFrames and FromBytes came from the member, those included that were dropped:
	FromFrames uint64 `json:"from_frames"`
	FromBytes  uint64 `json:"from_bytes"`
	Spoofed    uint64 `json:"spoofed"` // for addresses that are not their sender's
	Other      uint64 `json:"other"`   // malformed, of a kind that is not carried, or to nobody
	Rate       uint64 `json:"rate"`    // beyond what a member may send to everybody
	// ToFrames and ToBytes were written to the member's device:
	ToFrames uint64 `json:"to_frames"`
	ToBytes  uint64 `json:"to_bytes"`
	Refused  uint64 `json:"refused"` // not among these: the device was down or full
}

// traffic counts frames and their bytes.
type traffic struct{ frames, bytes atomic.Uint64 }

// count adds a frame, of n bytes with the virtio-net header.
func (t *traffic) count(n int) {
	t.frames.Add(1)
	t.bytes.Add(uint64(max(0, n-header.VirtioNetHeaderSize)))
}

func newPort(b *Bridge, dev stack.Device, a Address) *Port {
	return &Port{bridge: b, dev: dev, addr: a, bucket: rate.NewLimiter(floodRate, floodBurst)}
}

// Address is the one given to Add.
func (p *Port) Address() Address { return p.addr }

// Stats may be called by any goroutine, and after Remove, too.
func (p *Port) Stats() Stats {
	return Stats{
		FromFrames: p.from.frames.Load(), FromBytes: p.from.bytes.Load(),
		Spoofed: p.spoofed.Load(), Other: p.other.Load(), Rate: p.rate.Load(),
		ToFrames: p.to.frames.Load(), ToBytes: p.to.bytes.Load(), Refused: p.refused.Load(),
	}
}

// Ready implements shard.Handler: the stack reads this port.
func (p *Port) Ready(events uint32) {
	b := p.bridge
	b.current = p
	b.handler.Ready(events)
	b.current = nil
}

// write gives the member a frame. Any goroutine may call it.
func (p *Port) write(iov []unix.Iovec) (int, unix.Errno) {
	p.writers.Add(1)
	defer p.writers.Add(-1)
	if p.removed.Load() {
		return 0, unix.ENODEV
	}
	n, errno := p.dev.Writev(iov)
	if errno != 0 {
		p.refused.Add(1)
		return n, errno
	}
	p.to.count(n)
	return n, 0
}

// ReadAll forwards what waits at the port now, within bounds. It is not called while a frame is
// being forwarded.
func (p *Port) ReadAll() {
	for range readAllMost {
		before := p.from.frames.Load()
		p.Ready(0)
		if p.from.frames.Load() == before {
			return
		}
	}
}

// readAllMost batches hold more than the queue of a TAP, 500 frames.
const readAllMost = 64
