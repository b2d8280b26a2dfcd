package egress

import (
	"net/netip"
	"strings"
)

// index finds the rules of one direction by what a flow leads to.
type index struct {
	names    map[string]*bucket       // by the name itself
	below    map[string]*bucket       // by x of *.x
	prefixes map[netip.Prefix]*bucket // by the masked prefix
	lengths  [2][]int                 // of prefixes, of IPv4 and of IPv6
	groups   [groups]bucket
}

// bucket is the rules for one target.
type bucket struct{ deny, allow []*Rule }

func (b *bucket) add(r *Rule) {
	if r.allow {
		b.allow = append(b.allow, r)
	} else {
		b.deny = append(b.deny, r)
	}
}

func (x *index) add(r *Rule) {
	switch t := r.target; {
	case t.group != noGroup:
		x.groups[t.group].add(r)
	case t.prefix.IsValid():
		entry(&x.prefixes, t.prefix).add(r)
		lengths := &x.lengths[family(t.prefix.Addr())]
		for _, n := range *lengths {
			if n == t.prefix.Bits() {
				return
			}
		}
		*lengths = append(*lengths, t.prefix.Bits())
	case t.below:
		entry(&x.below, t.name).add(r)
	default:
		entry(&x.names, t.name).add(r)
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func entry[K comparable](m *map[K]*bucket, key K) *bucket {
	if *m == nil {
		*m = make(map[K]*bucket)
	}
	b := (*m)[key]
	if b == nil {
		b = new(bucket)
		(*m)[key] = b
	}
	return b
}

// match is what an index says of a flow: the first rule in the text that denies it, and the
// one that it goes by if none does.
type match struct{ deny, allow *Rule }

// consider takes the rules of a bucket into account; those that allow only if allowing.
func (m *match) consider(b *bucket, allowing bool, f *Flow) {
	m.deny = first(m.deny, b.deny, f)
	if allowing {
		for _, r := range b.allow {
			if r.covers(f.Proto, f.Port) && r.goesBefore(m.allow) {
				m.allow = r
			}
		}
	}
}

// first is the earliest in the text of best and the rules that cover the flow.
func first(best *Rule, rules []*Rule, f *Flow) *Rule {
	for _, r := range rules {
		if best != nil && best.ID < r.ID {
			return best // rules are in the order of the text
		}
		if r.covers(f.Proto, f.Port) {
			return r
		}
	}
	return best
}

// byName finds the rules for a flow's name.
func (x *index) byName(f *Flow) (m match) {
	x.eachNamed(f.Name, func(b *bucket) { m.consider(b, true, f) })
	return m
}

// eachNamed visits the rules for a name: its own and those for names below others.
func (x *index) eachNamed(name string, visit func(*bucket)) {
	if b := x.names[name]; b != nil {
		visit(b)
	}
	for len(x.below) > 0 {
		i := strings.IndexByte(name, '.')
		if i < 0 {
			return
		}
		name = name[i+1:]
		if b := x.below[name]; b != nil {
			visit(b)
		}
	}
}

// byAddr finds the rules for a flow's address.
func (x *index) byAddr(f *Flow) (m match) {
	x.eachOfAddr(f, func(b *bucket, allowing bool) { m.consider(b, allowing, f) })
	return m
}

// eachOfAddr visits the rules for an address: those for prefixes and for groups that it
// is in. allowing is false for groups by which it is only denied.
func (x *index) eachOfAddr(f *Flow, visit func(b *bucket, allowing bool)) {
	a := f.Addr
	if a.Is6() {
		a = a.Unmap().WithZone("")
	}
	x.eachPrefix(a, func(b *bucket) { visit(b, true) })
	if within := Inside(a); within != a {
		x.eachPrefix(within, func(b *bucket) { visit(b, false) }) // no way around what is denied
	}
	allowing, denying := f.groupsOf()
	for g := publicGroup; g < groups; g++ {
		if denying.has(g) {
			visit(&x.groups[g], allowing.has(g))
		}
	}
}

// eachPrefix visits the rules for prefixes that an address is in.
func (x *index) eachPrefix(a netip.Addr, visit func(*bucket)) {
	if !a.IsValid() {
		return
	}
	for _, bits := range x.lengths[family(a)] {
		p, _ := a.Prefix(bits)
		if b := x.prefixes[p]; b != nil {
			visit(b)
		}
	}
}
