package network

import (
	"net/netip"

	"epiphyte/internal/bypass"
	"epiphyte/internal/repair"
)

// carryFor has a member's busy connections leave the bridge, if its client takes them, or the
// keeper where it has none. The client has been told that it has joined, so it expects them.
func (w *Worker) carryFor(m *membership) {
	w.on(func() {
		if m.Carries == nil || m.agent == nil && !m.Detached || m.port == nil || m.carrier != nil || m.parted {
			return
		}
		m.kernel = &repair.Kernel{Start: func() { w.askForAgent(m) }, ReadAll: m.port.ReadAll, After: *m.Carries}
		if m.agent != nil {
			m.kernel.Agent = m.agent
		}
		m.carrier = &bypass.Member{
			Port:     m.port,
			Kernel:   m.kernel,
			Outlived: m.Detached,
			Take:     func(p bypass.Pair, fds [2]int) { w.handOut(m, p, fds) },
			End:      func(p bypass.Pair) { w.endCarried(m, p) },
		}
		if !w.def.Isolate {
			m.port.Follow(*m.Carries)
			w.bypass.Join(m.carrier)
		}
	})
}

// kernel is that of the member that has an address. Shard's thread.
func (w *Worker) kernel(a netip.Addr) *repair.Kernel {
	if m := w.byAddress[a]; m != nil {
		return m.kernel
	}
	return nil
}

// askForAgent has the keeper start the agent of a detached member, once. Shard's thread.
func (w *Worker) askForAgent(m *membership) {
	if !m.asked {
		m.asked = true
		w.tasks.Go(func() { w.tell(order{Op: opAgent, ID: m.ID}) })
	}
}

// takeAgent is for what the keeper has started. It comes once, since it was asked for once.
func (w *Worker) takeAgent(o *order, fds []int) {
	defer closeAll(fds)
	m, err := w.find(o.ID)
	with, assignErr := assign(o.Roles, fds)
	if err != nil || assignErr != nil || o.Member == nil {
		return
	}
	w.mu.Lock()
	m.Transparent4, m.Transparent6, m.NoStreams = o.Member.Transparent4, o.Member.Transparent6, o.Member.NoStreams
	w.mu.Unlock()
	agent, err := w.adoptAgent(m, with)
	if err != nil || agent == nil {
		return
	}
	w.on(func() {
		if m.parted || m.kernel == nil || agent.Attach(w.shard) != nil {
			agent.Close()
			return
		}
		m.agent, m.kernel.Agent = agent, agent
	})
}

// stopCarrying ends the connections of a member that have left the bridge. Shard's thread.
func (w *Worker) stopCarrying(m *membership) {
	m.parted = true
	if m.carrier != nil {
		w.bypass.Leave(m.carrier)
	}
}

// handOut gives who splices for a member a connection, or resets it.
func (w *Worker) handOut(m *membership, p bypass.Pair, fds [2]int) {
	sent := func(err error) {
		closeAll(fds[:])
		if err != nil {
			w.on(func() { w.bypass.Ended(p) })
		}
	}
	if m.conn == nil {
		m.outbox.post(&w.tasks, message{send: func() error {
			return w.tell(order{Op: opTake, Connections: []bypass.Pair{p}}, fds[:]...)
		}, sent: sent})
		return
	}
	w.sendUnasked(m, reply{Take: &p}, sent, fds[:]...)
}

// endCarried has who splices a connection end it.
func (w *Worker) endCarried(m *membership, p bypass.Pair) {
	if m.conn == nil {
		m.outbox.post(&w.tasks, message{send: func() error { return w.tell(order{Op: opEnd, Connections: []bypass.Pair{p}}) }})
		return
	}
	w.sendUnasked(m, reply{End: &p}, nil)
}

// hearOfCarried notes what is said of the connections that the client of m splices, or the
// keeper if m is nil.
func (w *Worker) hearOfCarried(m *membership, op operation, connections []bypass.Pair) {
	w.on(func() {
		for _, p := range connections {
			switch {
			case m != nil && w.bridge.Port(p[0].Addr()) != m.port: // another client's
			case op == opEnded:
				w.bypass.Ended(p)
			default:
				w.bypass.Claim(p)
			}
		}
	})
}
