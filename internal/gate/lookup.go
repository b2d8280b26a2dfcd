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
	// minKept and maxKept bound how long an answer is kept. A failure is kept for minKept,
	// so that a guest that keeps trying causes one query a second.
	minKept = time.Second
	maxKept = 30 * time.Second
	// keptMost bounds the names whose answers are kept or awaited.
	keptMost = 4096
	// waitMost bounds the flows that wait for one look-up, and waitAll those that wait for
	// any, including flows that have given up meanwhile.
	waitMost = 256
	waitAll  = 4096
	// tries bounds the addresses of a name that a connection tries.
	tries = 8
)

// lookups are the real addresses of names.
type lookups struct {
	g       *Gate
	names   map[string]*lookup
	waiting int // flows
}

// lookup is the addresses of a name, known or awaited.
type lookup struct {
	addrs   found
	until   time.Duration
	left    int // answers still awaited
	ttl     time.Duration
	waiting []func(found)
}

// find calls then with the addresses of a name, at once or later; with none if it has none or
// the look-up failed.
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

// trim forgets expired answers.
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
		if len(r.Addrs) > 0 { // an answer without addresses does not limit the other family's
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

// from orders the addresses for a connection to the synthetic address dst: those of its
// family first, so that a guest that tries both families (RFC 8305) does not get the same one
// twice.
func (x found) from(dst netip.Addr) []netip.Addr {
	if dst.Is4() {
		return slices.Concat(x[0], x[1])
	}
	return slices.Concat(x[1], x[0])
}

// decideName decides about a flow to an allowed name by where the name leads.
func (g *Gate) decideName(q policy.Request, f egress.Flow, b *egress.Binding) policy.Decision {
	return g.resolve(q, b.Name, b, func(addrs found) policy.Decision {
		if q.Proto == unix.IPPROTO_TCP {
			return g.lead(q, f, addrs)
		}
		if t := g.talks.find(q); t != nil { // begun by another datagram that waited
			return t.decision()
		}
		d := g.lead(q, f, addrs)
		if d.Action == policy.Allow {
			f.Addr = d.To.Addr()
			f.Host, f.Member = g.hosts.has(f.Addr, g.cfg.Shard.Now()), g.isMember(f.Addr)
		}
		return g.talks.begin(q, d, f, g.policy.Decide(f), b)
	})
}

// resolve decides about the addresses of a name, now or later, and holds b meanwhile; nil: there
// is nothing to hold. Under a policy that has come meanwhile the flow may need none of these
// addresses, or another name's, so it is decided anew.
func (g *Gate) resolve(q policy.Request, name string, b *egress.Binding, decide func(found) policy.Decision) policy.Decision {
	var now policy.Decision
	var pending *policy.Pending
	under := g.policy
	if b != nil {
		g.names.Hold(b)
	}
	g.look.find(name, func(addrs found) {
		if b != nil {
			g.names.Release(b)
		}
		switch {
		case g.closed:
			now = policy.Decision{Action: policy.Refuse, Errno: unix.EACCES}
		case g.policy != under:
			now = g.Decide(q)
		default:
			now = decide(addrs)
		}
		switch {
		case pending == nil:
		case now.Action == policy.Wait:
			now.Pending.Then(pending.Resolve)
		default:
			pending.Resolve(now)
		}
	})
	if now.Action != policy.Drop {
		return now
	}
	pending = new(policy.Pending)
	return policy.Decision{Action: policy.Wait, Pending: pending}
}

// lead decides about where a name leads: its allowed addresses, in order.
func (g *Gate) lead(q policy.Request, f egress.Flow, addrs found) policy.Decision {
	var d policy.Decision
	var to egress.Flow
	var allowed egress.Verdict
	refused, refusal := f, egress.Verdict{Reason: egress.Unresolved}
	for _, a := range addrs.from(q.Dst.Addr()) {
		f.Addr = a
		f.Host, f.Member = g.hosts.has(a, g.cfg.Shard.Now()), g.isMember(a)
		v := g.policy.Decide(f)
		// A UDP or ping socket has one family, that of the guest's datagram.
		other := f.Proto != egress.TCP && a.Is4() != q.Dst.Addr().Is4()
		at := netip.AddrPortFrom(a, f.Port)
		switch {
		case other:
		case !reachable(a), !v.Allow && !g.passes(v):
			if refusal.Reason == egress.Unresolved {
				refused, refusal = f, v
				if v.Allow { // allowed, but no server can be there
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
	g.record(refused, refusal, q, egress.Ending{})
	if refusal.Reason == egress.Unresolved {
		return policy.Decision{Action: policy.Refuse, Errno: unix.EHOSTUNREACH}
	}
	return policy.Decision{Action: policy.Refuse, Errno: unix.EACCES}
}

// reachable reports whether a host socket may connect to a name's address: never to loopback
// and the like, whatever rules say.
func reachable(a netip.Addr) bool {
	return policy.Routable(a) && !a.IsLinkLocalUnicast() && !egress.IsSynthetic(a)
}
