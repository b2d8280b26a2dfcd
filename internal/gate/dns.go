package gate

import (
	"net/netip"
	"time"

	"epiphyte/internal/egress"
)

// Answer answers queries under the policy; see dns.Config.Local.
func (g *Gate) Answer(query []byte, from netip.AddrPort, stream bool) (answer []byte, ok bool) {
	q := g.questions.Ask(g.policy, query, stream, g.cfg.Shard.Now())
	if q.Upstream != nil {
		return nil, false
	}
	if q.Name != "" && !q.Verdict.Allow {
		g.count(q.Verdict)
		g.recordName(q, from)
	}
	return q.Answer, true
}

// Refuse answers a query that another part would answer, if the policy denies its name.
func (g *Gate) Refuse(query []byte, from netip.AddrPort, stream bool) (answer []byte, denied bool) {
	q, denied := g.questions.Refuse(g.policy, query, stream)
	if denied {
		g.count(q.Verdict)
		g.recordName(q, from)
	}
	return q.Answer, denied
}

// Rewrite replaces the guest's queries by our own; see dns.Config.Rewrite.
func (g *Gate) Rewrite(query []byte, _ netip.AddrPort, stream bool) (upstream []byte, finish func([]byte) []byte) {
	q := g.questions.Ask(g.policy, query, stream, g.cfg.Shard.Now())
	if q.Upstream == nil {
		return nil, nil // Answer has answered it
	}
	return q.Upstream, func(response []byte) []byte { return q.Finish(response, g.cfg.Shard.Now()) }
}

// recordName records that a name was denied.
func (g *Gate) recordName(q egress.Question, from netip.AddrPort) {
	if g.recorder.Write == nil {
		return
	}
	g.write(egress.Event{Time: time.Now(), Flow: egress.Flow{Name: q.Name}, Verdict: q.Verdict, Asked: true, Source: from})
}
