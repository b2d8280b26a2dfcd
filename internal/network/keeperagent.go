package network

import (
	"context"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/tap"
)

// startAgent starts the agent of a detached member, which has no other process to be its
// parent, and hands its socket to the worker. Where that fails the member does without.
func (k *keeper) startAgent(ctx context.Context, id string) {
	p, err := k.newAgent(ctx, id)
	if err == nil {
		if err = p.Started(ctx); err != nil {
			p.Close()
		}
	}
	if err != nil {
		k.cfg.Logger.Warn("connections of a member stay on the bridge", "member", id, "error", err)
		return
	}
	socket, err := unix.FcntlInt(uintptr(p.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		p.Close()
		return
	}
	defer unix.Close(socket)
	if m, ok := k.keepAgent(id, p); ok {
		k.tell(order{Op: opAgent, ID: id, Member: &m, Roles: []role{roleAgent}}, socket) // else the next worker is told
	} else {
		p.Close()
	}
}

// newAgent starts it in the namespace of the member's TAP.
func (k *keeper) newAgent(ctx context.Context, id string) (*tap.AgentProcess, error) {
	plan, err := addressing.NewNetwork(k.cfg.Definition.Subnet, k.cfg.Definition.Subnet6)
	if err != nil {
		return nil, err
	}
	netns, err := k.netns(id)
	if err != nil {
		return nil, err
	}
	defer unix.Close(netns)
	return tap.StartAgentProcess(ctx, tap.AgentConfig{
		Target:  tap.Target{NetNS: fmt.Sprintf("/proc/self/fd/%d", netns)},
		Subnet4: plan.Prefix, Gateway4: plan.Gateway,
		Subnet6: plan.Prefix6, Gateway6: plan.Gateway6,
		NoStreams: true, Carries: true, Lasting: true,
	})
}

// netns opens the network namespace of a member.
func (k *keeper) netns(id string) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.find(id)
	if m == nil {
		return -1, fmt.Errorf("there is no member %q", id)
	}
	return tap.NetNSOf(m.with[roleTAP])
}

// keepAgent adds a member's agent to what is kept of it, and returns the member as it is then.
func (k *keeper) keepAgent(id string, p *tap.AgentProcess) (Member, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.find(id)
	if m == nil || m.agent != nil {
		return Member{}, false
	}
	fd, err := unix.FcntlInt(uintptr(p.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return Member{}, false
	}
	m.agent, m.with = p, maps.Clone(m.with)
	m.with[roleAgent] = fd
	m.member.Transparent4, m.member.Transparent6 = p.Transparent()
	m.member.NoStreams = true
	return m.member, true
}

// find must be called with mu.
func (k *keeper) find(id string) *kept {
	for i := range k.kept {
		if k.kept[i].member.ID == id {
			return &k.kept[i]
		}
	}
	return nil
}
