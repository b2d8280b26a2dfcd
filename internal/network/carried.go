package network

import (
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/bypass"
)

// carryFor has a member's busy connections leave the bridge, if its client takes them. The
// client has been told that it has joined, so it expects them.
func (w *Worker) carryFor(m *membership) {
	w.on(func() {
		if m.Carries == nil || m.agent == nil || m.conn == nil || m.port == nil || m.carrier != nil || m.parted {
			return
		}
		m.port.Follow(*m.Carries)
		m.carrier = &bypass.Member{
			Port:  m.port,
			Agent: m.agent,
			Take:  func(p bypass.Pair, fds [2]int) { w.tasks.Go(func() { w.handOut(m, p, fds) }) },
			End:   func(p bypass.Pair) { w.tasks.Go(func() { w.sendUnasked(m, reply{End: &p}) }) },
		}
		w.bypass.Join(m.carrier)
	})
}

// stopCarrying ends the connections of a member that have left the bridge. Shard's thread.
func (w *Worker) stopCarrying(m *membership) {
	m.parted = true
	if m.carrier != nil {
		w.bypass.Leave(m.carrier)
	}
}

// handOut gives a member's client a connection to splice, or resets it.
func (w *Worker) handOut(m *membership, p bypass.Pair, fds [2]int) {
	err := w.sendUnasked(m, reply{Take: &p}, fds[:]...)
	for _, fd := range fds {
		unix.Close(fd)
	}
	if err != nil {
		w.on(func() { w.bypass.Ended(p) })
	}
}

// sendUnasked sends a member's client what it has not asked for. One that has been stopped
// does not read.
func (w *Worker) sendUnasked(m *membership, r reply, fds ...int) error {
	m.conn.SetWriteDeadline(time.Now().Add(otherPatience))
	defer m.conn.SetWriteDeadline(time.Time{})
	return send(m.conn, r, fds...)
}

// hearOfCarried notes what a member's client says of the connections that it splices.
func (w *Worker) hearOfCarried(m *membership, req *request) {
	w.on(func() {
		for _, p := range req.Connections {
			switch {
			case w.bridge.Port(p[0].Addr()) != m.port: // another client's
			case req.Op == opEnded:
				w.bypass.Ended(p)
			case m.carrier != nil:
				w.bypass.Claim(p, m.carrier)
			}
		}
	})
}
