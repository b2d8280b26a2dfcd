package egress

import (
	"cmp"
	"net/netip"
	"sync"
	"time"
)

const (
	// MaxPins bounds the addresses pinned at once. Beyond it, a random one gives way: its
	// guest asks again.
	MaxPins = 16 << 10
	// pinNames bounds the names of one address; beyond it, the one that ends first gives
	// way.
	pinNames = 16
)

// Pins are the addresses that DNS answers have allowed, each for the names that it answered.
// Its zero value is ready to use, and its methods may be called from any goroutine.
type Pins struct {
	Max int // at once; MaxPins if zero. Set before use.

	mu    sync.Mutex
	addrs map[netip.Addr][]pin
}

// pin is one name of an address.
type pin struct {
	name string
	ends time.Duration
}

// Add allows an address for a name until a time. It reports false if the policy lets no name
// lead to that address.
func (x *Pins) Add(p *Policy, name string, a netip.Addr, until time.Duration) bool {
	a = a.Unmap()
	if !p.mayLead(a) {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	list := x.addrs[a]
	for i := range list {
		if list[i].name == name {
			list[i].ends = max(list[i].ends, until)
			return true
		}
	}
	if x.addrs == nil {
		x.addrs = make(map[netip.Addr][]pin)
	}
	if list == nil && len(x.addrs) >= cmp.Or(x.Max, MaxPins) {
		for other := range x.addrs {
			delete(x.addrs, other)
			break
		}
	}
	if len(list) >= pinNames {
		first := 0
		for i := range list {
			if list[i].ends < list[first].ends {
				first = i
			}
		}
		list[first] = pin{name, until}
		return true
	}
	x.addrs[a] = append(list, pin{name, until})
	return true
}

// Names returns the names of an address at a time.
func (x *Pins) Names(a netip.Addr, now time.Duration) (names []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	a = a.Unmap()
	list := x.addrs[a]
	for i := 0; i < len(list); {
		if list[i].ends < now {
			list[i] = list[len(list)-1]
			list = list[:len(list)-1]
			continue
		}
		names = append(names, list[i].name)
		i++
	}
	if len(list) == 0 {
		delete(x.addrs, a)
	} else {
		x.addrs[a] = list
	}
	return names
}

// mayLead reports whether a name may lead to an address by some protocol and port: one
// on the Internet that no rule denies as a whole, or one that some rule allows.
func (p *Policy) mayLead(a netip.Addr) bool {
	allowed := classOf(a) == publicGroup
	f := Flow{Addr: a}
	p.out.eachOfAddr(&f, func(b *bucket, allowing bool) {
		allowed = allowed || allowing && len(b.allow.rules) > 0
	})
	p.out.eachOfAddr(&f, func(b *bucket, _ bool) {
		allowed = allowed && b.deny.all == nil
	})
	return allowed
}
