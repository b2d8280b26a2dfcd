package egress

import (
	"container/list"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// Bounds of names.
const (
	// MaxNames bounds the names bound to addresses at once. Beyond it, the least recently
	// used name without a flow loses its address, which is reused only after all others
	// have been: a guest that remembers it reaches nothing.
	MaxNames = 16 << 10
	// starNames bounds the new names per minute below the star of one rule: each name
	// carries 180 bytes to the domain's nameserver.
	starNames = 60
)

// Synthetic4 and Synthetic6 are the ranges that names are bound to: the one for benchmarks
// (RFC 2544), which nobody routes, and a ULA of random bits (RFC 4193).
func Synthetic4() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, 0}), 15)
}

// Synthetic6 is its IPv6 counterpart, a /64.
func Synthetic6() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x3b, 0x91, 0xc7, 0x5e, 0x2a, 0x00, 0x01}), 64)
}

// synthetic is the number of addresses of each family: a /15 without its first.
const synthetic = 1<<17 - 1

// Names binds names to addresses of their own, one of each family, for as long as the
// Names lives. Its zero value is ready to use, and its methods may be called from any
// goroutine.
type Names struct {
	Max int // at once; MaxNames if zero. Set before use.

	mu     sync.Mutex
	byName map[string]*Binding
	byID   map[uint32]*Binding
	used   list.List // of *Binding, the most recently used last
	last   uint32    // the id given last
	stars  map[string]*star
}

// star counts the new names below a star in the minute since began.
type star struct {
	began time.Duration
	count int
}

// Binding is a name and its addresses.
type Binding struct {
	Name  string
	id    uint32 // from 1 to synthetic
	flows int
	place *list.Element
}

// Addr4 is the binding's IPv4 address.
func (b *Binding) Addr4() netip.Addr {
	a := Synthetic4().Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+b.id)
	return netip.AddrFrom4(a)
}

// Addr6 is the binding's IPv6 address.
func (b *Binding) Addr6() netip.Addr {
	a := Synthetic6().Addr().As16()
	binary.BigEndian.PutUint32(a[12:], b.id)
	return netip.AddrFrom16(a)
}

// IsSynthetic reports whether an address can be a name's.
func IsSynthetic(a netip.Addr) bool { return Synthetic4().Contains(a) || Synthetic6().Contains(a) }

// Bind returns the binding of a name that v allowed; now is monotonic. It is nil if there
// have been too many new names below the rule's star, or if all bindings have flows.
func (n *Names) Bind(name string, v Verdict, now time.Duration) *Binding {
	n.mu.Lock()
	defer n.mu.Unlock()
	if b := n.byName[name]; b != nil {
		n.used.MoveToBack(b.place)
		return b
	}
	if !n.admit(v.Rule, now) || !n.makeRoom() {
		return nil
	}
	if n.byName == nil {
		n.byName, n.byID = make(map[string]*Binding), make(map[uint32]*Binding)
	}
	for {
		if n.last++; n.last > synthetic {
			n.last = 1
		}
		if n.byID[n.last] == nil {
			break
		}
	}
	b := &Binding{Name: name, id: n.last}
	b.place = n.used.PushBack(b)
	n.byName[name], n.byID[b.id] = b, b
	return b
}

// Skip skips count addresses. Call it before the first one is given.
func (n *Names) Skip(count uint32) { n.last = count % synthetic }

// admit counts a new name below the star of a rule.
func (n *Names) admit(r *Rule, now time.Duration) bool {
	if r == nil || !r.target.below {
		return true
	}
	// Keyed by its text, so that a reload of the policy does not begin another minute.
	s := n.stars[r.Text]
	if s == nil {
		if n.stars == nil {
			n.stars = make(map[string]*star)
		}
		if len(n.stars) >= MaxRules {
			clear(n.stars)
		}
		s = &star{began: now}
		n.stars[r.Text] = s
	}
	if now-s.began >= time.Minute {
		*s = star{began: now}
	}
	s.count++
	return s.count <= starNames
}

// makeRoom drops the least recently used binding without a flow, if all are taken.
func (n *Names) makeRoom() bool {
	most := n.Max
	if most == 0 {
		most = MaxNames
	}
	if len(n.byName) < most {
		return true
	}
	for e := n.used.Front(); e != nil; e = e.Next() {
		if b := e.Value.(*Binding); b.flows == 0 {
			n.used.Remove(e)
			delete(n.byName, b.Name)
			delete(n.byID, b.id)
			return true
		}
	}
	return false
}

// Find is the binding of an address, nil if there is none.
func (n *Names) Find(a netip.Addr) *Binding {
	var id uint32
	switch a = a.Unmap(); {
	case Synthetic4().Contains(a):
		b := a.As4()
		id = binary.BigEndian.Uint32(b[:]) &^ (0xfffe << 16)
	case Synthetic6().Contains(a):
		b := a.As16()
		if binary.BigEndian.Uint32(b[8:]) != 0 {
			return nil
		}
		id = binary.BigEndian.Uint32(b[12:])
	default:
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.byID[id]
	if b != nil {
		n.used.MoveToBack(b.place)
	}
	return b
}

// Hold keeps a binding for a flow until Release has been called as often.
func (n *Names) Hold(b *Binding) {
	n.mu.Lock()
	b.flows++
	n.mu.Unlock()
}

// Release ends a Hold.
func (n *Names) Release(b *Binding) {
	n.mu.Lock()
	b.flows--
	n.mu.Unlock()
}
