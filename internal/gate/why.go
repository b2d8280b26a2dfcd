package gate

import (
	"epiphyte/internal/egress"
	"epiphyte/internal/policy"
)

// Judge is what Decide would come to about a request of the guest, without counting it,
// looking a name up, or keeping anything: the decision of the rules, and where they allow it
// the verdict of the policy. A flow to an address that was made up for a name is judged by
// that name.
func (g *Gate) Judge(q policy.Request) (d policy.Decision, v *egress.Verdict) {
	d = g.cfg.Rules.Decide(q)
	if d.Action != policy.Allow {
		return d, nil
	}
	verdict, f := g.judgeAddr(q)
	if b := g.names.Find(q.Dst.Addr()); b != nil {
		f = egress.Flow{Proto: f.Proto, Port: f.Port, Name: b.Name}
		verdict = g.policy.Decide(f)
	}
	return d, &verdict
}

// JudgeName is the verdict of the policy about a name, whatever its addresses.
func (g *Gate) JudgeName(f egress.Flow) egress.Verdict { return g.policy.Decide(f) }
