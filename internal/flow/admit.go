package flow

// Admit makes room for one more flow of a kind, and reports whether there is room
// now.
func (t *Table) Admit(k Kind) bool {
	if l, ok := t.makeRoom(k); !ok {
		t.refuse(l)
		return false
	}
	return true
}

// refuse counts a flow for which there is no room.
func (t *Table) refuse(l Limit) {
	t.totals.Refused++
	t.Meet(l)
	t.sayFull()
}

// sayFull calls OnFull, once.
func (t *Table) sayFull() {
	if t.OnFull != nil {
		t.OnFull()
		t.OnFull = nil
	}
}

// makeRoom evicts flows as needed, and reports whether there is room. If not, l is the limit
// that was met.
func (t *Table) makeRoom(k Kind) (l Limit, ok bool) {
	if k == Dial && t.kinds[Conn].count >= t.limits.TCP {
		return LimitConnections, false // evicting dials would not make room
	}
	for l, full := t.full(k); full; l, full = t.full(k) {
		if !t.evict(t.leastWanted(k, false), l) {
			return l, false
		}
	}
	for (k == Dial || k == Mapping) && t.descriptors() >= t.limits.Descriptors {
		victim := Dial
		if n, sure := t.kinds[Mapping].count, t.limits.sureMappings(); n > sure || n == sure && k == Mapping {
			victim = Mapping
		}
		if !t.evict(t.leastWanted(victim, false), LimitDescriptors) {
			return LimitDescriptors, false
		}
	}
	return "", true
}

// evict ends a flow that gives way at a limit, if there is one.
func (t *Table) evict(f *Flow, l Limit) bool {
	if f == nil {
		return false
	}
	t.totals.Evicted++
	t.Meet(l)
	t.sayFull()
	t.end(f, Evicted)
	return true
}

// Descriptors is how many all flows may hold.
func (t *Table) Descriptors() int { return t.limits.Descriptors }

// descriptors is how many all flows hold, or will hold. A connection by an exposed
// port has two.
func (t *Table) descriptors() int {
	return t.kinds[Dial].count + t.kinds[Conn].count + t.kinds[Mapping].count + t.kinds[Client].count + 2*t.kinds[Exposed].count
}

// full reports whether a kind has no room left, and by which limit.
func (t *Table) full(k Kind) (l Limit, full bool) {
	n := t.kinds[k].count
	switch k {
	case Dial:
		if n+t.kinds[Conn].count >= t.limits.TCP {
			return LimitConnections, true
		}
		return LimitAttempts, n >= t.limits.Dials
	case Mapping:
		return LimitMappings, n >= t.limits.Mappings
	case Client:
		return LimitClients, n >= t.limits.Clients
	case Session:
		return LimitSessions, n >= t.limits.Sessions
	case Exposed:
		return LimitExposed, n >= t.limits.Exposed
	}
	return "", false
}

// leastWanted is the flow of an evictable kind to evict: the least recently used one
// among the guest addresses that have at least their fair share. So one address that
// opens many cannot displace another's few. With descriptor set, only flows that have
// one count.
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

// FreeDescriptor evicts a flow that has a descriptor, when the kernel has refused one, and
// reports whether there was one; if not, the flow that needs it is counted as refused. Dials
// go before mappings: a guest repeats a SYN that was not answered.
func (t *Table) FreeDescriptor() bool {
	for _, k := range [...]Kind{Dial, Mapping} {
		if t.evict(t.leastWanted(k, true), LimitDescriptors) {
			return true
		}
	}
	t.refuse(LimitDescriptors)
	return false
}
