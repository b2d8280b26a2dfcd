package guest

import (
	"net/netip"

	"epiphyte/internal/egress"
	"epiphyte/internal/gate"
	"epiphyte/internal/names"
	"epiphyte/internal/policy"
)

// hostNames answers queries for the host's names with the addresses by which the guest
// reaches it, and under a policy only what that allows. It belongs to the shard's thread.
type hostNames struct {
	table *names.Table
	gate  func(guest netip.Addr) *gate.Gate // nil: the guest has no policy
	next  func(query []byte, from netip.AddrPort, stream bool) ([]byte, bool)
}

// hostAddrs are those by which a guest reaches the host. A caller that has set an address
// to stand for the host's own, as podman does, means that one by the host's name.
func hostAddrs(r *policy.Rules) []netip.Addr {
	switch {
	case r.Internal:
		return nil
	case len(r.Plan.HostAddrs) > 0:
		return r.Plan.HostAddrs
	case r.DisableHostLoopback:
		return nil
	}
	return r.Plan.HostLoopback
}

// HostFlow returns f with an address in place of a name of the host. absent says that there is
// no such name, since the guest may not reach the host, or that it is below one of the host's.
// Without the resolver nobody answers for these names. Any goroutine may call it.
func (g *Guest) HostFlow(f egress.Flow) (_ egress.Flow, absent bool) {
	rules := g.workers[0].rules
	if f.Name == "" || rules.DisableDNS {
		return f, false
	}
	addrs, ours := names.NewHost(hostAddrs(rules), false).Lookup(f.Name)
	if len(addrs) > 0 {
		f.Name, f.Addr = "", addrs[0]
	}
	return f, ours && len(addrs) == 0
}

// Answer answers queries for the host, and leaves others to next; see dns.Config.Local.
func (h *hostNames) Answer(query []byte, from netip.AddrPort, stream bool) (answer []byte, ok bool) {
	answer, ok = h.table.Answer(query, stream)
	if !ok {
		return h.next(query, from, stream)
	}
	if x := h.gate(from.Addr()); x != nil {
		if refusal, denied := x.Refuse(query, from, stream); denied {
			return refusal, true
		}
	}
	return answer, true
}
