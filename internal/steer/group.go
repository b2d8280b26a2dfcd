package steer

import (
	"net/netip"
	"sync"

	"epiphyte/internal/plan"
	"epiphyte/stack"
)

// Config of a Group.
type Config struct {
	// Queues of one device, a lane for each: 2 to 256.
	Queues []stack.Device
	Plan   plan.Plan
	// DisableDNS makes the plan's DNS address an ordinary destination.
	DisableDNS bool
}

// Group is the lanes of one guest and what they share: the table of claims, that
// of fragments, and spare memory.
type Group struct {
	lanes     []*Lane
	rules     rules
	claims    claims
	fragments fragments
	spares    [2]sync.Pool // of *frame, small and large
}

var _ stack.Claims = (*Group)(nil)

// New makes the lanes. Attach completes each.
func New(cfg Config) *Group {
	g := &Group{rules: newRules(len(cfg.Queues), &cfg.Plan, cfg.DisableDNS)}
	for i, q := range cfg.Queues {
		g.lanes = append(g.lanes, &Lane{Device: q, group: g, index: i, vnet: q.VNetHdr()})
	}
	return g
}

// Lane is the lane of queue i.
func (g *Group) Lane(i int) *Lane { return g.lanes[i] }

// Claim brings what the guest sends of a flow to lane 0, until Release has been
// called as often. Any goroutine may call it.
func (g *Group) Claim(proto uint8, guest, outside netip.AddrPort) {
	g.claims.change(1, proto, guest, outside)
}

// Release takes a Claim back. Any goroutine may call it.
func (g *Group) Release(proto uint8, guest, outside netip.AddrPort) {
	g.claims.change(-1, proto, guest, outside)
}

// owner is the lane whose a packet is.
func (g *Group) owner(etherType uint16, ip []byte) int {
	var f flow
	f.look(etherType, ip)
	if f.part == later {
		return g.fragments.owner(&f)
	}
	owner := g.rules.owner(&f)
	if owner != 0 && g.claims.count.Load() > 0 && g.claims.holds(&f) {
		owner = 0
	}
	if f.part == first {
		g.fragments.first(&f, owner)
	}
	return owner
}
