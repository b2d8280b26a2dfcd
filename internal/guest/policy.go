package guest

import (
	"net/netip"

	"epiphyte/internal/egress"
	"epiphyte/internal/flow"
	"epiphyte/internal/gate"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard"
)

// decider returns the Decider of a worker's flows: the rules, and if there is one, the
// policy of the guest or of each member in front of them.
func (g *Guest) decider(w *worker, cfg *Config) policy.Decider {
	w.rules = &cfg.Rules
	switch {
	case cfg.Members != nil:
		g.members = &memberGates{g: g, cfg: cfg, gates: make(map[*flow.Guest]*gate.Gate), before: make(map[*flow.Guest]*gate.Before)}
		return g.members
	case cfg.Policy != nil:
		w.gate = gate.New(gate.Config{
			Rules: &cfg.Rules, IsOwn: cfg.Rules.Plan.IsOwn, Policy: cfg.Policy, IPv6: g.ipv6,
			Shard: w.shard, Table: w.table, Log: cfg.Record, Memory: g.memory, Share: 1 + len(cfg.Queues),
		})
		return w.gate
	}
	return &cfg.Rules
}

// resolve has the worker's gate look names up, by the resolver of worker 0.
func (g *Guest) resolve(w *worker) {
	switch first := g.workers[0]; {
	case w.gate == nil || g.resolver == nil:
	case w == first:
		w.gate.Attach(g.resolver)
	default:
		w.gate.Attach(&farResolver{gate.Resolver(g.resolver), first.shard, w.shard})
	}
}

// farResolver is the resolver of another worker, by messages.
type farResolver struct {
	gate.Resolver
	theirs, ours *shard.Shard
}

// Ask implements gate.Resolver. If the resolver does not take the question, reply gets a
// response that cannot be read.
func (r *farResolver) Ask(query []byte, stream bool, reply func(response []byte)) bool {
	answered := func(response []byte) {
		response = append([]byte(nil), response...) // it is overwritten
		r.ours.Post(shard.TaskFunc(func() { reply(response) }))
	}
	return r.theirs.Post(shard.TaskFunc(func() {
		if !r.Resolver.Ask(query, stream, answered) {
			answered(nil)
		}
	}))
}

// SetPolicy replaces the policy, which the guest must have had from the start. It is in
// force when SetPolicy returns.
func (g *Guest) SetPolicy(p *egress.Policy) { g.ask(func(w *worker) { w.gate.Set(p) }) }

// Policy is the one in force, and how often its rules have decided; nil if there is none.
func (g *Guest) Policy() (p *egress.Policy, counts gate.Counts) {
	if g.workers[0].gate == nil {
		return nil, counts
	}
	g.ask(func(w *worker) {
		p = w.gate.Policy()
		counts.Add(w.gate.Counts())
	})
	return p, counts
}

// memberShare: a member's gate may remember one part in memberShare of what a gate may: 10 MB
// at most, half of it for pinned names.
const memberShare = 16

// memberGates apply the policies of members, each its own. It belongs to the shard's thread.
type memberGates struct {
	g      *Guest
	cfg    *Config
	gates  map[*flow.Guest]*gate.Gate
	before map[*flow.Guest]*gate.Before // of members without a policy
}

// Decide implements policy.Decider. The rules decide about members without a policy. While
// others have one, nothing is reached from an address that is not known to be a member's,
// since every member may use further link-local ones.
func (m *memberGates) Decide(q policy.Request) policy.Decision {
	if x := m.gates[q.Guest]; x != nil {
		return x.Decide(q)
	}
	d := m.cfg.Rules.Decide(q)
	switch {
	case q.Guest == nil && len(m.gates) > 0 && (d.Action == policy.Allow || d.Action == policy.ServeDNS):
		return policy.Decision{}
	case q.Guest != nil && d.Action == policy.Allow:
		m.note(q)
	}
	return d
}

// note remembers a member's datagrams, in case it gets a policy.
func (m *memberGates) note(q policy.Request) {
	b := m.before[q.Guest]
	if b == nil {
		b = gate.NewBefore(memberShare)
		m.before[q.Guest] = b
	}
	b.Note(q, m.g.workers[0].shard.Now())
}

// of is the gate of the member with an address, nil if there is none.
func (m *memberGates) of(a netip.Addr) *gate.Gate { return m.gates[m.cfg.Members.Guest(a)] }

// Answer answers by the names of members, then by the policy of the one that asks.
func (m *memberGates) Answer(query []byte, from netip.AddrPort, stream bool) (answer []byte, ok bool) {
	if answer, ok = m.cfg.Members.Answer(query, from, stream); ok {
		return answer, ok
	}
	if x := m.of(from.Addr()); x != nil {
		return x.Answer(query, from, stream)
	}
	return nil, false
}

// Rewrite rewrites a query as the policy of the member that asks wants it.
func (m *memberGates) Rewrite(query []byte, from netip.AddrPort, stream bool) (upstream []byte, finish func([]byte) []byte) {
	if x := m.of(from.Addr()); x != nil {
		return x.Rewrite(query, from, stream)
	}
	return nil, nil
}

// SetMemberPolicy sets or replaces the policy of one of the Members; nil removes it.
// record gets its records, and may be nil. It must be called on the thread of the shard.
func (g *Guest) SetMemberPolicy(of *flow.Guest, p *egress.Policy, record func(egress.Record)) {
	x, w := g.members.gates[of], g.workers[0]
	before := g.members.before[of]
	delete(g.members.before, of)
	if p != nil && p.KillFlows {
		g.EndFlows(nil) // from addresses that nobody is known by: of any member
	}
	switch {
	case p == nil && x == nil:
	case p == nil:
		x.Close()
		delete(g.members.gates, of)
	case x != nil:
		x.Set(p)
	default:
		rules := &g.members.cfg.Rules
		x = gate.New(gate.Config{
			Rules: rules, IsOwn: rules.Plan.IsOwn, IsMember: rules.Plan.Inside, Policy: p, IPv6: g.ipv6,
			Shard: w.shard, Table: w.table, Log: record, Share: memberShare, Guest: of, Before: before,
		})
		if g.resolver != nil {
			x.Attach(g.resolver)
		}
		g.members.gates[of] = x
	}
}

// MemberPolicy returns that of one of the Members, and how often its rules have decided; nil
// if it has none. It waits for the shard as Flows does.
func (g *Guest) MemberPolicy(of *flow.Guest) (p *egress.Policy, counts gate.Counts) {
	g.ask(func(*worker) {
		if x := g.members.gates[of]; x != nil {
			p, counts = x.Policy(), x.Counts()
		}
	})
	return p, counts
}

// closeGates is called when all flows have ended.
func (g *Guest) closeGates() {
	for _, w := range g.workers {
		if w.gate != nil {
			w.gate.Close()
		}
	}
	if g.members != nil {
		for _, x := range g.members.gates {
			x.Close()
		}
	}
}
