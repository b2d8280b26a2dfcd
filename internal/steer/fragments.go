package steer

import (
	"net/netip"
	"sync"

	"epiphyte/stack"
)

// fragmentSlots datagrams in parts are remembered; one more takes the place of
// another. A guest's kernel sends the parts of a datagram one right after the
// other, so more than a handful are hardly ever on their way.
const fragmentSlots = 64

// fragments remembers where the first parts of datagrams have gone, by the
// ports in them, so that the others follow. A part that comes before the first is
// worker 0's, and its datagram is lost; Linux does not send them so.
type fragments struct {
	mu    sync.Mutex
	slots [fragmentSlots]fragment // guarded by mu
}

type fragment struct {
	src, dst netip.Addr
	id       uint32
	owner    int // of a slot never used: 0, as without it
}

// first notes the owner of the first part.
func (t *fragments) first(p *stack.Packet, owner int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*t.slot(p) = fragment{p.Src, p.Dst, p.Fragment.ID, owner}
}

// owner is that of a later part.
func (t *fragments) owner(p *stack.Packet) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.slot(p); s.src == p.Src && s.dst == p.Dst && s.id == p.Fragment.ID {
		return s.owner
	}
	return 0
}

func (t *fragments) slot(p *stack.Packet) *fragment {
	id := p.Fragment.ID
	h := hash(netip.AddrPortFrom(p.Dst, uint16(id>>16)), hash(netip.AddrPortFrom(p.Src, uint16(id)), 0))
	return &t.slots[h%fragmentSlots]
}
