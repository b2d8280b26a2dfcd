package flow

// Admit makes room for one more flow of a kind, and reports whether there is room
// now.
func (t *Table) Admit(k Kind) bool {
	if !t.makeRoom(k) {
		t.totals.Refused++
		t.sayFull()
		return false
	}
	return true
}

// sayFull tells once that a limit was reached.
func (t *Table) sayFull() {
	if t.OnFull != nil {
		t.OnFull()
		t.OnFull = nil
	}
}

func (t *Table) makeRoom(k Kind) bool {
	if k == Dial && t.kinds[Conn].count >= t.limits.TCP {
		return false // ending dials would not make room
	}
	for t.full(k) {
		if !t.evict(t.leastWanted(k, false)) {
			return false
		}
	}
	for (k == Dial || k == Mapping) && t.descriptors() >= t.limits.Descriptors {
		victim := Dial
		if n, sure := t.kinds[Mapping].count, t.limits.sureMappings(); n > sure || n == sure && k == Mapping {
			victim = Mapping
		}
		if !t.evict(t.leastWanted(victim, false)) {
			return false
		}
	}
	return true
}

// evict ends a flow that gives way, if there is one.
func (t *Table) evict(f *Flow) bool {
	if f == nil {
		return false
	}
	t.totals.Evicted++
	t.sayFull()
	t.end(f, Evicted)
	return true
}

// descriptors is how many all flows hold, or will when they have come so far. A
// connection by an exposed port has two.
func (t *Table) descriptors() int {
	return t.kinds[Dial].count + t.kinds[Conn].count + t.kinds[Mapping].count + t.kinds[Client].count + 2*t.kinds[Exposed].count
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
		if t.evict(t.leastWanted(k, true)) {
			return true
		}
	}
	return false
}
