package steer

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// claimSlots bounds how often a frame of an unclaimed flow takes the lock: with as
// many claims as slots, two of three do. 16 kB.
const claimSlots = 4096

// claims are the flows that worker 0 has begun. Every worker checks each frame against
// them, with a single load as long as there are none.
type claims struct {
	count atomic.Int32
	slots [claimSlots]atomic.Int32 // claims of each hash

	mu   sync.RWMutex
	held map[flow]int // times claimed; guarded by mu
}

func (c *claims) slot(f *flow) *atomic.Int32 { return &c.slots[f.hash()%claimSlots] }

// holds reports whether the flow is claimed.
func (c *claims) holds(f *flow) bool {
	if c.slot(f).Load() == 0 {
		return false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.held[*f] > 0
}

func (c *claims) change(by int, proto uint8, guest, outside netip.AddrPort) {
	f := flow{proto, withoutZone(guest), withoutZone(outside)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = make(map[flow]int)
	}
	n := c.held[f] + by
	if n < 0 {
		return
	}
	if c.held[f] = n; n == 0 {
		delete(c.held, f)
	}
	c.slot(&f).Add(int32(by))
	c.count.Add(int32(by))
}

// withoutZone is the address as it is in a frame.
func withoutZone(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())
}
