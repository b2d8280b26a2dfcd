package cli

import (
	"net/netip"

	"epiphyte/internal/netdef"
)

// warn logs what will not work on the host as it is. That may change, so nothing ends.
func (o *Options) warn(r *reporter) {
	for _, line := range o.Source.Missing() {
		r.log.Warn("the guest reaches nothing outside until there is the outbound address: " + line)
	}
	if o.Plan.Outside {
		return
	}
	routes, _ := netdef.HostRoutes() // where they cannot be listed there is nothing to say
	for _, subnet := range [...]netip.Prefix{o.Plan.Prefix, o.Plan.Prefix6} {
		if route, ok := netdef.Overlap(subnet, routes); ok {
			r.log.Warn("the guest cannot reach a network of the host, because its own subnet has the same addresses; choose another by --cidr or --cidr6",
				"network", route, "subnet", subnet)
		}
	}
}
