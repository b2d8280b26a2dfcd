package cli

import (
	"epiphyte/internal/relay"
	"epiphyte/tap"
)

// Values of --bulk.
const (
	bulkAuto   = "auto"
	bulkAlways = "always"
	bulkNever  = "never"
)

// carries reports whether connections may be handed over to the guest's kernel: we may change
// the routing of the namespace, and one thread moves them all.
func (o *Options) carries(cfg tap.Config) bool {
	return o.Bulk != bulkNever && o.Queues <= 1 && configures(cfg) && !cfg.LoopbackOnly && cfg.Target.FD == 0
}

// carryAfter is repair.Kernel.After.
func (o *Options) carryAfter() uint64 {
	if o.Bulk == bulkAlways {
		return 0
	}
	return relay.CarryAfter
}
