package network

import (
	"net/netip"

	"epiphyte/internal/bridge"
	"epiphyte/internal/flow"
	"epiphyte/portfwd"
)

// members implements guest.Members; all methods but Neighbor are called on the shard's
// thread.
type members struct {
	*bridge.Bridge
	w *Worker
}

func (m members) Neighbor(a netip.Addr) ([6]byte, bool) { return m.Lookup(a) }

func (m members) AddressOf(mac [6]byte) (netip.Addr, bool) {
	a, ok := m.w.leases[mac]
	return a, ok
}

func (m members) Guest(a netip.Addr) *flow.Guest {
	return m.w.guests[a]
}

func (m members) Sockets(a netip.Addr) portfwd.Sockets {
	if member := m.w.byAddress[a]; member != nil && member.agent != nil && !member.NoStreams {
		return member.agent
	}
	return nil
}

// Answer looks in this network's names, then in those of the asker's other networks, before
// it says that a name does not exist.
func (m members) Answer(query []byte, from netip.AddrPort, stream bool) ([]byte, bool) {
	asker := m.w.byAddress[from.Addr()]
	answer, ok := m.w.names.Answer(query, stream)
	if ok && !denies(answer) || asker == nil {
		return answer, ok
	}
	if others, known := m.w.others.answer(asker.ID, query, stream); known {
		return others, true
	}
	return answer, ok
}
