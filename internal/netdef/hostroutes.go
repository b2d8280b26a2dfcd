package netdef

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// dumps is how often the kernel is asked while others change what it lists.
const dumps = 5

// broadRoute is the prefix length below which a route is one to everywhere, and no
// network.
const broadRoute = 7

// HostRoutes lists the prefixes that the addresses and routes of all tables of the
// calling thread's network namespace cover, sorted and each once. Left out are its own
// loopback and default routes, among them the parts of one by which VPNs take over
// without replacing it (0.0.0.0/1 and 128.0.0.0/1).
func HostRoutes() ([]netip.Prefix, error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of the host: %w", err)
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes of the host: %w", err)
	}
	var all []netip.Prefix
	add := func(n *net.IPNet) {
		if p := prefix(n); p.Bits() >= broadRoute && !p.Addr().IsLoopback() {
			all = append(all, p)
		}
	}
	for _, a := range addrs {
		add(a.IPNet)
	}
	for _, r := range routes {
		add(r.Dst)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all), nil
}

// dump lists again what others have changed meanwhile.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumps {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// prefix is the network of n; not valid if n is nil, as of some default routes.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits).Masked()
}
