package portfwd

import (
	"epiphyte/internal/relay"
	"epiphyte/internal/sockio"
)

// Append describes the UDP sessions. TCP connections are the relay's once the
// guest has accepted them. Shard's thread only.
func (m *Manager) Append(list []relay.Info) []relay.Info {
	now := m.shard.Now()
	for _, s := range m.sessions.byKey {
		i := relay.Info{Proto: "udp", Guest: s.key.guest, Remote: s.key.client, Host: sockio.LocalAddr(s.socket.fd), State: "published"}
		s.counters.Last = s.used
		i.Fill(&s.counters, now)
		list = append(list, i)
	}
	return list
}

// Counts is the number of TCP clients that wait for the guest, or in it for the
// host, and of UDP sessions. Shard's thread only.
func (m *Manager) Counts() (waiting, sessions int) {
	return len(m.attempts) + len(m.visits), len(m.sessions.byKey)
}
