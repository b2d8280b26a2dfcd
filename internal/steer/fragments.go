package steer

import (
	"net/netip"
	"sync"

	"epiphyte/stack"
)

// fragmentSlots bounds the fragmented datagrams that are remembered; a further one
// replaces another. A guest's kernel sends the parts of a datagram one right after
// the other, so there are hardly ever more than a handful.
const fragmentSlots = 64

// fragments remembers the owners of the first parts of datagrams, which have the
// ports, so that the others follow. A part that comes before the first is worker
// 0's, and its datagram is lost; Linux does not send them so.
type fragments struct {
	mu    sync.Mutex
	slots [fragmentSlots]fragment // guarded by mu
}

type fragment struct {
	src, dst netip.Addr
	id       uint32
	owner    int // 0 in an unused slot, as for an unknown datagram
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
