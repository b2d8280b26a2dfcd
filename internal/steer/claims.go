package steer

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// claimSlots is how finely it is told apart that no flow is claimed which might
// be this one: at as many claims as there are slots two of three frames of other
// flows find it out with a lock. 16 kB.
const claimSlots = 4096

// claims are the flows that lane 0 has begun. Every lane looks whether a frame
// is of one, with a single load as long as none is.
type claims struct {
	count atomic.Int32
	slots [claimSlots]atomic.Int32 // claims of each hash

	mu   sync.RWMutex
	held map[claim]int // times claimed; guarded by mu
}

type claim struct {
	proto          uint8
	guest, outside endpoint
}

func (c *claim) slot() int {
	f := flow{guest: c.guest, outside: c.outside}
	return int(f.hash() % claimSlots)
}

// holds reports whether the flow is claimed.
func (c *claims) holds(f *flow) bool {
	k := claim{f.proto, f.guest, f.outside}
	if c.slots[k.slot()].Load() == 0 {
		return false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.held[k] > 0
}

func (c *claims) change(by int, proto uint8, guest, outside netip.AddrPort) {
	k := claim{proto, endpointOf(guest), endpointOf(outside)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = make(map[claim]int)
	}
	n := c.held[k] + by
	if n < 0 {
		return
	}
	if c.held[k] = n; n == 0 {
		delete(c.held, k)
	}
	c.slots[k.slot()].Add(int32(by))
	c.count.Add(int32(by))
}
