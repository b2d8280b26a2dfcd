package flow

// Admit makes room for one more flow of a kind, and reports whether there is room
// now.
func (t *Table) Admit(k Kind) bool {
	if k == Dial && t.kinds[Conn].count >= t.limits.TCP {
		return false // ending dials would not make room
	}
	for t.full(k) {
		v := t.leastWanted(k, false)
		if v == nil {
			return false
		}
		t.end(v, Evicted)
	}
	return true
}

// full reports whether a kind has no room left.
func (t *Table) full(k Kind) bool {
	n := t.kinds[k].count
	switch k {
	case Dial:
		return n >= t.limits.Dials || n+t.kinds[Conn].count >= t.limits.TCP
	case Mapping:
		return n >= t.limits.Mappings
	case Client:
		return n >= t.limits.Clients
	case Session:
		return n >= t.limits.Sessions
	case Exposed:
		return n >= t.limits.Exposed
	}
	return false
}

// leastWanted is the flow of an evictable kind to end first: the one that was used longest
// ago, among the guest addresses that have at least their fair share. So one
// address that opens many cannot displace another's few. With descriptor set, only
// flows that have one count.
func (t *Table) leastWanted(k Kind, descriptor bool) *Flow {
	owners := len(t.share[k])
	if owners == 0 {
		return nil
	}
	fair := t.kinds[k].count / owners
	for f := t.kinds[k].first; f != nil; f = f.next {
		if t.share[k][f.Src.Addr()] >= fair && (!descriptor || f.FD >= 0) {
			return f
		}
	}
	return nil
}

// FreeDescriptor ends an evictable flow that has a descriptor, and reports
// whether there was one. Dials go before mappings: a guest repeats a SYN that was
// not answered.
func (t *Table) FreeDescriptor() bool {
	for _, k := range [...]Kind{Dial, Mapping} {
		if v := t.leastWanted(k, true); v != nil {
			t.end(v, Evicted)
			return true
		}
	}
	return false
}
