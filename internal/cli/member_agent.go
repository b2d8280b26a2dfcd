package cli

import (
	"context"
	"log/slog"

	"epiphyte/internal/network"
	"epiphyte/tap"
)

// wantsMemberAgent reports whether a member joins with an agent. It is one more process
// for each, of which most members would have no use, so those have one that publish TCP
// ports when they join. A port that is published later goes by the stack, where the
// server sees its clients' addresses as well. A detached member's agent would end with
// this program.
func (o *Options) wantsMemberAgent(wish network.Member) bool {
	return len(wish.Publish) > 0 && o.publishesTCP() && !wish.Detached
}

// startAgent starts what the direct path of the member's published ports needs, if it
// has some. join comes next.
func (m *member) startAgent(ctx context.Context, o *Options, cfg tap.Config, wish network.Member) {
	if !o.wantsMemberAgent(wish) {
		return
	}
	p, err := tap.StartAgentProcess(ctx, tap.AgentConfig{
		Target:  cfg.Target,
		Subnet4: m.info.Subnet, Gateway4: m.info.Gateway,
		Subnet6: m.info.Subnet6, Gateway6: m.info.Gateway6,
		Unconfined: o.Unconfined,
	})
	if err != nil {
		cfg.Logger.Warn("published ports go by the TAP only", "error", err)
		return
	}
	m.agent = p
}

// awaitAgent waits until the agent has started, if there is one, and does without it if
// it has not.
func (m *member) awaitAgent(ctx context.Context, log *slog.Logger) {
	if m.agent == nil {
		return
	}
	if err := m.agent.Started(ctx); err != nil {
		log.Warn("published ports go by the TAP only", "error", err)
		m.agent.Close()
		m.agent = nil
	}
}
