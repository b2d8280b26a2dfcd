package cli

import (
	"context"
	"log/slog"

	"epiphyte/internal/network"
	"epiphyte/tap"
)

// wantsMemberAgent reports whether a member joins with an agent. An agent is one more process
// per member, and most have no use for it, so only those that publish TCP ports when they
// join get one. A port published later goes through the stack, where the server sees its
// clients' addresses as well. A detached member's agent would end with this program.
func (o *Options) wantsMemberAgent(wish network.Member) bool {
	return len(wish.Publish) > 0 && o.publishesTCP() && !wish.Detached
}

// startAgent starts the agent for the direct path of the member's published ports, if it has
// any. join comes next.
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
		cfg.Logger.Warn("published ports and bulk go by the TAP only", "error", err)
		return
	}
	m.agent = p
}

// awaitAgent waits for the agent to start, if there is one, and drops it if it fails.
func (m *member) awaitAgent(ctx context.Context, log *slog.Logger) {
	if m.agent == nil {
		return
	}
	if err := m.agent.Started(ctx); err != nil {
		log.Warn("published ports and bulk go by the TAP only", "error", err)
		m.agent.Close()
		m.agent = nil
	}
}
