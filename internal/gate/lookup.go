package gate

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"epiphyte/internal/egress"
	"epiphyte/internal/policy"
)

const (
	// minKept and maxKept bound how long an answer is kept; a failure is kept for the
	// least, so that a guest that tries again and again asks once a second.
	minKept = time.Second
	maxKept = 30 * time.Second
	// keptMost are the names whose answers are kept or awaited.
	keptMost = 4096
	// waitMost are the flows that wait for one look-up, and waitAll those that wait for
	// any: who has given up meanwhile still counts.
	waitMost = 256
	waitAll  = 4096
	// tries are the addresses of a name that a connection tries.
	tries = 8
)

// lookups are the real addresses of names.
type lookups struct {
	g       *Gate
	names   map[string]*lookup
	waiting int // flows
}

// lookup is what is known of a name's addresses, or awaited.
type lookup struct {
	addrs   found
	until   time.Duration
	left    int // answers that are awaited
	ttl     time.Duration
	waiting []func(found)
}

// find calls then with the addresses of a name, at once or later; with none where it
// has none, or nobody said.
func (x *lookups) find(name string, then func(found)) {
	now := x.g.cfg.Shard.Now()
	l := x.names[name]
	switch {
	case l != nil && l.left == 0 && now < l.until:
		then(l.addrs)
		return
	case x.waiting >= part(waitAll, x.g.cfg.Share), l != nil && len(l.waiting) == waitMost:
		then(found{})
		return
	case l != nil && l.left > 0:
		l.waiting = append(l.waiting, then)
		x.waiting++
		return
	}
	if len(x.names) >= part(keptMost, x.g.cfg.Share) {
		x.trim(now)
	}
	if len(x.names) >= part(keptMost, x.g.cfg.Share) || x.g.resolver == nil {
		then(found{})
		return
	}
	if x.names == nil {
		x.names = make(map[string]*lookup)
	}
	l = &lookup{left: 2, ttl: maxKept, waiting: []func(found){then}}
	x.names[name] = l
	x.waiting++
	for i, t := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		x.ask(l, name, i, t, false)
	}
}

// trim forgets what is over.
func (x *lookups) trim(now time.Duration) {
	for name, l := range x.names {
		if l.left == 0 && l.until <= now {
			delete(x.names, name)
		}
	}
}

// ask asks for one kind of address, again by TCP if the answer did not fit.
func (x *lookups) ask(l *lookup, name string, i int, t dnsmessage.Type, stream bool) {
	asked := x.g.resolver.Ask(egress.Upstream(name, t), stream, func(response []byte) {
		r, ok := egress.ReadReply(response, name, t)
		if ok && r.Truncated && !stream {
			x.ask(l, name, i, t, true)
			return
		}
		if len(r.Addrs) > 0 { // that there are none of one family says nothing of the other's
			l.addrs[i] = r.Addrs
			l.ttl = min(l.ttl, max(r.TTL, minKept))
		}
		x.answered(l)
	})
	if !asked {
		l.ttl = 0
		x.answered(l)
	}
}

func (x *lookups) answered(l *lookup) {
	if l.left--; l.left > 0 {
		return
	}
	if len(l.addrs[0])+len(l.addrs[1]) == 0 {
		l.ttl = min(l.ttl, minKept)
	}
	l.until = x.g.cfg.Shard.Now() + l.ttl
	waiting := l.waiting
	l.waiting = nil
	x.waiting -= len(waiting)
	for _, then := range waiting {
		then(l.addrs)
	}
}

// found is the addresses of a name, of IPv4 and of IPv6.
type found [2][]netip.Addr

// from is their order for who connects to an address that stands for the name: those of
// its family first. So a guest that tries both families, as RFC 8305 has it, does not meet
// the same one twice.
func (x found) from(dst netip.Addr) []netip.Addr {
	if dst.Is4() {
		return slices.Concat(x[0], x[1])
	}
	return slices.Concat(x[1], x[0])
}

// decideName decides about a flow to a synthetic address.
func (g *Gate) decideName(q policy.Request) policy.Decision {
	b := g.names.Find(q.Dst.Addr())
	f := egress.Flow{Proto: protoOf(q.Proto), Port: q.Dst.Port()}
	if f.Proto == egress.ICMP {
		f.Port = 0
	}
	if b == nil {
		f.Addr = q.Dst.Addr()
		return g.act(q, policy.Decision{}, f, g.policy.Decide(f))
	}
	f.Name = b.Name
	if t := g.talks.find(q); t != nil {
		return t.decision() // what was allowed goes on
	}
	v := g.policy.Decide(f)
	switch {
	case !v.Allow && !g.passes(v):
		return g.act(q, policy.Decision{}, f, v)
	case goesByProxy(v):
		return g.decideProxy(q, f, v)
	}
	d := policy.Decision{Action: policy.Allow}
	if f.Proto != egress.TCP {
		return g.talks.decide(q, d, b)
	}
	return g.resolveBound(b, func(addrs found) policy.Decision { return g.lead(q, f, addrs) })
}

// resolveBound has the addresses of a binding decided about, which is held meanwhile.
func (g *Gate) resolveBound(b *egress.Binding, decide func(found) policy.Decision) policy.Decision {
	g.names.Hold(b)
	return g.resolve(b.Name, func(addrs found) policy.Decision {
		g.names.Release(b)
		return decide(addrs)
	})
}

// resolve has the addresses of a name decided about, now or later.
func (g *Gate) resolve(name string, decide func(found) policy.Decision) policy.Decision {
	var now policy.Decision
	var pending *policy.Pending
	g.look.find(name, func(addrs found) {
		if g.closed {
			now = policy.Decision{Action: policy.Refuse, Errno: unix.EACCES}
		} else {
			now = decide(addrs)
		}
		if pending != nil {
			pending.Resolve(now)
		}
	})
	if now.Action != policy.Drop {
		return now
	}
	pending = new(policy.Pending)
	return policy.Decision{Action: policy.Wait, Pending: pending}
}

// lead decides about where a name leads: its addresses that may be, in their order.
func (g *Gate) lead(q policy.Request, f egress.Flow, addrs found) policy.Decision {
	var d policy.Decision
	var to egress.Flow
	var allowed egress.Verdict
	refused, refusal := f, egress.Verdict{Reason: egress.Unresolved}
	for _, a := range addrs.from(q.Dst.Addr()) {
		f.Addr = a
		f.Host, f.Member = g.hosts.has(a, g.cfg.Shard.Now()), g.isMember(a)
		v := g.policy.Decide(f)
		// The socket of a port or of an identifier is of one family, the guest's.
		other := f.Proto != egress.TCP && a.Is4() != q.Dst.Addr().Is4()
		at := netip.AddrPortFrom(a, f.Port)
		switch {
		case other:
		case !reachable(a), !v.Allow && !g.passes(v):
			if refusal.Reason == egress.Unresolved {
				refused, refusal = f, v
				if v.Allow { // by its rules: nothing can be there
					refusal = egress.Verdict{Reason: egress.NotPublic, Rule: v.Rule}
				}
			}
		case d.Action != policy.Allow:
			d, to, allowed = policy.Decision{Action: policy.Allow, To: at}, f, v
		case len(d.Others) < tries-1:
			d.Others = append(d.Others, at)
		}
	}
	if d.Action == policy.Allow {
		return g.act(q, d, to, allowed)
	}
	g.count(refusal)
	g.record(refused, refusal, q, egress.Record{})
	if refusal.Reason == egress.Unresolved {
		return policy.Decision{Action: policy.Refuse, Errno: unix.EHOSTUNREACH}
	}
	return policy.Decision{Action: policy.Refuse, Errno: unix.EACCES}
}

// reachable reports whether a name's address can be one that a host socket connects to:
// loopback and the like never are, whatever rules say.
func reachable(a netip.Addr) bool {
	return policy.Routable(a) && !a.IsLinkLocalUnicast() && !egress.IsSynthetic(a)
}
