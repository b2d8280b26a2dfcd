package steer

import "sync"

// fragmentSlots datagrams in parts are remembered; one more takes the place of
// another. A guest's kernel sends the parts of a datagram one right after the
// other, so more than a handful are hardly ever on their way.
const fragmentSlots = 64

// fragments remembers where the first parts of datagrams have gone, by the
// ports in them, so that the others follow. Those that come before the first are
// lane 0's, and their datagram is lost; Linux does not send them so.
type fragments struct {
	mu    sync.Mutex
	slots [fragmentSlots]fragment // guarded by mu
}

type fragment struct {
	src, dst [16]byte
	id       uint32
	owner    int // of a slot never used: 0, as without it
}

// first notes the owner of the first part.
func (t *fragments) first(f *flow, owner int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*t.slot(f) = fragment{f.guest.addr, f.outside.addr, f.id, owner}
}

// owner is that of a later part.
func (t *fragments) owner(f *flow) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.slot(f); s.src == f.guest.addr && s.dst == f.outside.addr && s.id == f.id {
		return s.owner
	}
	return 0
}

func (t *fragments) slot(f *flow) *fragment {
	a, b := f.guest, f.outside
	a.port, b.port = uint16(f.id), uint16(f.id>>16)
	return &t.slots[b.hash(a.hash(0))%fragmentSlots]
}
