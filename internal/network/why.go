package network

import (
	"errors"
	"fmt"

	"epiphyte/internal/addressing"
	"epiphyte/internal/egress"
	"epiphyte/internal/guest"
)

// Why says what would become of a member's flow.
type Why struct {
	guest.Why             // set if Neighbor is empty, and neither NoHost nor Unknown
	Flow      egress.Flow // with an address where the network knows its name
	Neighbor  string      // the member that the flow is for; may be the one that asks
	Elsewhere string      // another network of the asker's, if Neighbor is on that
	Own       bool        // Neighbor is the one that asks
	Apart     bool        // members are kept from each other
	NoHost    bool        // the name is one of the host's, which the member may not reach
	Unknown   bool        // the name belongs to the network, and no member has it
}

// errWhose means that no member was named, and the network has not exactly one.
var errWhose = errors.New("say whose flow it would be: the network has several members, or none")

// Plan is the network's addresses.
func (w *Worker) Plan() addressing.Plan { return w.plan }

// Why says what would become of a flow of the member who; empty: the only one. Nothing is
// sent, counted or kept.
func (w *Worker) Why(who string, f egress.Flow) (why Why, err error) {
	m, err := w.asked(who)
	if err != nil {
		return why, fmt.Errorf("network %s: %w", w.def.Name, err)
	}
	why.Apart = w.def.Isolate
	if why.Flow, why.NoHost = w.guest.HostFlow(f); why.NoHost {
		return why, nil
	}
	served := w.on(func() { why.resolve(w, m) })
	if !served {
		return why, fmt.Errorf("network %s: %w", w.def.Name, errEnding)
	}
	if why.Neighbor == "" && !why.Unknown {
		why.Why = w.guest.Why(m.guest, why.Flow)
	}
	return why, nil
}

// asked returns the member with the id or name who; empty: the only one.
func (w *Worker) asked(who string) (*membership, error) {
	if who != "" {
		return w.find(who)
	}
	if all := w.list(); len(all) == 1 {
		return all[0], nil
	}
	return nil, errWhose
}

// resolve finds what the network itself knows of the flow's name and address. Shard's
// thread.
func (why *Why) resolve(w *Worker, m *membership) {
	if why.Flow.Name != "" && !w.def.NoDNS {
		addrs, ours := w.names.Lookup(why.Flow.Name)
		if len(addrs) == 0 {
			addrs = w.others.lookup(m.ID, why.Flow.Name)
		}
		switch {
		case len(addrs) > 0:
			why.Flow.Name, why.Flow.Addr = "", addrs[0]
		case ours:
			why.Unknown = true
		}
	}
	if n := w.byAddress[why.Flow.Addr]; n != nil {
		why.Neighbor, why.Own = n.Name, n == m
	} else if n, neighbor := w.others.at(m.ID, why.Flow.Addr); n != nil { // the guest's kernel sends it there
		why.Neighbor, why.Own, why.Elsewhere, why.Apart = neighbor.Name, neighbor.ID == m.ID, n.name, n.isolate
	}
}
