package cli

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// warn says what will not work as things are on the host now. They may change,
// so it ends nothing.
func (o *Options) warn(r *reporter) {
	for _, line := range o.Source.Missing() {
		r.log.Warn("the guest reaches nothing outside until there is the outbound address: " + line)
	}
	routes := hostRoutes()
	for _, subnet := range [...]netip.Prefix{o.Plan.Prefix, o.Plan.Prefix6} {
		if route, ok := overlap(routes, subnet); ok {
			r.log.Warn("the guest cannot reach a network of the host, because its own subnet has the same addresses; choose another by --cidr or --cidr6",
				"network", route, "subnet", subnet)
		}
	}
}

// broadRoute is the prefix length below which a route is one to everywhere, as
// VPNs split it (0.0.0.0/1 and 128.0.0.0/1), and no network.
const broadRoute = 7

// hostRoutes are the networks to which the main table of this network namespace has
// a route. Where they cannot be listed, there are none.
func hostRoutes() (list []netip.Prefix) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL,
		&netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		return nil
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if ok && bits >= broadRoute {
			list = append(list, netip.PrefixFrom(addr, bits))
		}
	}
	return list
}

// overlap finds the first of the routes that shares addresses with the subnet, which
// may be not valid.
func overlap(routes []netip.Prefix, subnet netip.Prefix) (netip.Prefix, bool) {
	for _, r := range routes {
		if r.Overlaps(subnet) {
			return r, true
		}
	}
	return netip.Prefix{}, false
}
