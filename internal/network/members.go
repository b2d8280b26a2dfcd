package network

import (
	"net/netip"

	"epiphyte/internal/bridge"
	"epiphyte/internal/flow"
	"epiphyte/portfwd"
)

// members is the worker as guest.Members; all methods but Neighbor are called on the
// shard's thread.
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
	if member := m.w.byAddress[a]; member != nil && member.agent != nil {
		return member.agent
	}
	return nil
}

// Answer answers by this network's names, then by those of other networks that the asker
// is a member of. Only then does a name not exist.
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
