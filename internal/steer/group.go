package steer

import (
	"net/netip"
	"sync"

	"epiphyte/internal/addressing"
	"epiphyte/stack"
)

// Config of a Group.
type Config struct {
	// Queues of one device, 2 to 256. Each gets a worker.
	Queues []stack.Device
	Plan   addressing.Plan
	// DisableDNS makes the plan's DNS address an ordinary destination.
	DisableDNS bool
}

// Group holds the workers of one guest and what they share: the table of claims, that
// of fragments, and spare memory.
type Group struct {
	workers   []*Worker
	rules     rules
	claims    claims
	fragments fragments
	spares    [2]sync.Pool // of *frame, small and large
}

var _ stack.Claims = (*Group)(nil)

// New makes the workers. Attach completes each.
func New(cfg Config) *Group {
	g := &Group{rules: rules{uint64(len(cfg.Queues)), cfg.Plan, cfg.DisableDNS}}
	for _, q := range cfg.Queues {
		g.workers = append(g.workers, &Worker{Device: q, group: g, vnet: q.VNetHdr()})
	}
	return g
}

// Worker is the worker of queue i.
func (g *Group) Worker(i int) *Worker { return g.workers[i] }

// Claim directs the guest's frames of a flow to worker 0, until Release has been called
// as often. Any goroutine may call it.
func (g *Group) Claim(proto uint8, guest, outside netip.AddrPort) {
	g.claims.change(1, proto, guest, outside)
}

// Release takes a Claim back. Any goroutine may call it.
func (g *Group) Release(proto uint8, guest, outside netip.AddrPort) {
	g.claims.change(-1, proto, guest, outside)
}
