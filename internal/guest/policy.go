package guest

import (
	"epiphyte/internal/egress"
	"epiphyte/internal/gate"
	"epiphyte/internal/policy"
)

// decider is what decides about the flows of a worker: the rules, and before them the
// policy if there is one.
func (g *Guest) decider(w *worker, cfg *Config) policy.Decider {
	if cfg.Policy == nil {
		return &cfg.Rules
	}
	p := &cfg.Rules.Plan
	g.gate = gate.New(gate.Config{
		Rules:  &cfg.Rules,
		IsOwn:  p.IsOwn,
		Policy: cfg.Policy,
		IPv6:   p.IPv6(),
		Shard:  w.shard,
		Table:  w.table,
		Log:    cfg.Record,
	})
	return g.gate
}

// SetPolicy replaces the policy, which the guest must have had from the start. It is in
// force when SetPolicy returns.
func (g *Guest) SetPolicy(p *egress.Policy) { g.ask(func(*worker) { g.gate.Set(p) }) }

// Policy is the one in force, and how often its rules have decided; nil if there is none.
func (g *Guest) Policy() (p *egress.Policy, counts gate.Counts) {
	if g.gate == nil {
		return nil, counts
	}
	g.ask(func(*worker) { p, counts = g.gate.Policy(), g.gate.Counts() })
	return p, counts
}

func (g *Guest) closeGate() {
	if g.gate != nil {
		g.gate.Close()
	}
}
