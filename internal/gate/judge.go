package gate

import (
	"net/netip"

	"epiphyte/internal/egress"
	"epiphyte/internal/policy"
)

// judgment is the result for a guest's request before anything is looked up, counted or kept.
type judgment struct {
	decision policy.Decision // of the rules; unless they allow it, the rest is not set
	flow     egress.Flow
	verdict  egress.Verdict
	binding  *egress.Binding // of a synthetic destination; nil: it came from no name
}

// judge asks the rules, and then the policy about the name that the destination stands for,
// or about the address. Decide and Judge share it.
func (g *Gate) judge(q policy.Request) (j judgment) {
	j.decision = g.cfg.Rules.Decide(q)
	if j.decision.Action != policy.Allow {
		return j
	}
	j.flow = egress.Flow{Proto: protoOf(q.Proto), Addr: q.Dst.Addr(), Port: q.Dst.Port()}
	if j.flow.Proto == egress.ICMP {
		j.flow.Port = 0
	}
	if !egress.IsSynthetic(q.Dst.Addr()) {
		j.verdict, j.flow = g.judgeAddr(j.flow)
		return j
	}
	j.binding = g.names.Find(q.Dst.Addr())
	if j.binding == nil { // nothing is there, whatever rules say about the address
		j.verdict = egress.Verdict{Reason: egress.Unresolved}
		return j
	}
	j.flow.Name, j.flow.Addr = j.binding.Name, netip.Addr{}
	j.verdict = g.JudgeName(j.flow)
	return j
}

// judgeAddr decides about a real address, also by the names that it is pinned for. The flow
// that it returns is the one that the verdict is about.
func (g *Gate) judgeAddr(f egress.Flow) (egress.Verdict, egress.Flow) {
	f.Host, f.Member = g.cfg.IsOwn(f.Addr), g.isMember(f.Addr)
	v := g.policy.Decide(f)
	// Ask the kernel only where its answer matters, not for each address of a scan.
	if !f.Host && (v.Allow || g.policy.NamesHost()) && g.hosts.has(f.Addr, g.cfg.Shard.Now()) {
		f.Host = true
		v = g.policy.Decide(f)
	}
	if v.Allow || !g.policy.Pin {
		return v, f
	}
	for _, name := range g.pins.Names(f.Addr, g.cfg.Shard.Now()) {
		named := f
		named.Name = name
		named.Host = f.Host || g.hosts.has(f.Addr, g.cfg.Shard.Now())
		if v := g.policy.Decide(named); v.Allow {
			return v, named
		}
	}
	return v, f
}

// Judge returns what Decide would decide about a guest's request, without counting it,
// looking a name up, or keeping anything: the decision of the rules and, if they allow it,
// the verdict of the policy. A flow to a synthetic address is judged by its name.
func (g *Gate) Judge(q policy.Request) (d policy.Decision, v *egress.Verdict) {
	j := g.judge(q)
	if j.decision.Action != policy.Allow {
		return j.decision, nil
	}
	return j.decision, &j.verdict
}

// JudgeName is the verdict of the policy about a name, whatever its addresses.
func (g *Gate) JudgeName(f egress.Flow) egress.Verdict { return g.policy.Decide(f) }
