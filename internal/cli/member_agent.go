package cli

import (
	"context"
	"log/slog"

	"epiphyte/internal/network"
	"epiphyte/tap"
)

// startAgent starts the agent that a member needs for the direct path of its published ports,
// and for its kernel to carry connections to neighbours. join comes next.
//
// A detached member's would end with this program; the network's keeper starts one. Ports
// published later than the membership go through the stack, where the server sees its clients'
// addresses as well.
func (m *member) startAgent(ctx context.Context, o *Options, cfg tap.Config, wish *network.Member) {
	carries := o.Bulk != bulkNever
	if carries {
		after := o.carryAfter()
		wish.Carries = &after
	}
	publishes := len(wish.Publish) > 0 && o.publishesTCP()
	if wish.Detached || !publishes && !carries {
		return
	}
	p, err := tap.StartAgentProcess(ctx, tap.AgentConfig{
		Target:  cfg.Target,
		Subnet4: m.info.Subnet, Gateway4: m.info.Gateway,
		Subnet6: m.info.Subnet6, Gateway6: m.info.Gateway6,
		NoStreams: !publishes, Carries: carries, Unconfined: o.Unconfined,
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
