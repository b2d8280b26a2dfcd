package egress

import (
	"net/netip"
	"strings"

	"epiphyte/internal/names"
)

// index finds the rules of one direction for a flow's target.
type index struct {
	names    map[string]*bucket       // by the name itself
	below    map[string]*bucket       // by x of *.x
	prefixes map[netip.Prefix]*bucket // by the masked prefix
	lengths  [2][]int                 // of prefixes, of IPv4 and of IPv6
	groups   [groups]bucket
}

// bucket is the rules for one target.
type bucket struct{ deny, allow ruleList }

func (b *bucket) add(r *Rule) {
	if r.allow {
		b.allow.add(r)
	} else {
		b.deny.add(r)
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

// compile makes the index ready to be asked, once all rules are added.
func (x *index) compile() {
	each := func(b *bucket) {
		b.deny.compile()
		b.allow.compile()
	}
	for _, b := range x.names {
		each(b)
	}
	for _, b := range x.below {
		each(b)
	}
	for _, b := range x.prefixes {
		each(b)
	}
	for g := range x.groups {
		each(&x.groups[g])
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

// match is what an index finds for a flow: the first rule in the text that denies it, and the
// one that allows it if none does.
type match struct{ deny, allow *Rule }

// consider takes a bucket's rules into account; its allow rules only if allowing.
func (m *match) consider(b *bucket, allowing bool, f *Flow) {
	if r := b.deny.find(f.Proto, f.Port); r != nil && r.goesBefore(m.deny) {
		m.deny = r
	}
	if !allowing {
		return
	}
	if r := b.allow.find(f.Proto, f.Port); r != nil && r.goesBefore(m.allow) {
		m.allow = r
	}
}

// byName finds the rules for a flow's name.
func (x *index) byName(f *Flow) (m match) {
	x.eachNamed(f.Name, func(b *bucket) { m.consider(b, true, f) })
	return m
}

// eachNamed visits the rules for a name: its own, those for a star above it, and for a name
// of the host those for the host.
func (x *index) eachNamed(name string, visit func(*bucket)) {
	if names.IsHost(name) {
		visit(&x.groups[hostGroup])
	}
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

// eachOfAddr visits the rules for the prefixes and groups that an address is in. allowing is
// false where only deny rules count.
func (x *index) eachOfAddr(f *Flow, visit func(b *bucket, allowing bool)) {
	a := f.Addr
	if a.Is6() {
		a = a.Unmap().WithZone("")
	}
	x.eachPrefix(a, func(b *bucket) { visit(b, true) })
	if within := Inside(a); within != a {
		x.eachPrefix(within, func(b *bucket) { visit(b, false) }) // a translator is no way around a deny rule
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
