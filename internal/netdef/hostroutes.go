package netdef

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"epiphyte/internal/rtnetlink"
)

// broadRoute is the prefix length below which a route counts as one to everywhere, not to a
// network.
const broadRoute = 7

// HostRoutes lists the prefixes that the addresses and routes of all tables of the
// calling thread's network namespace cover, sorted and each once. It leaves out loopback and
// default routes, including the halves with which VPNs override a default route without
// replacing it (0.0.0.0/1 and 128.0.0.0/1).
func HostRoutes() ([]netip.Prefix, error) {
	c, err := rtnetlink.Open(0)
	if err != nil {
		return nil, fmt.Errorf("list routes of the host: %w", err)
	}
	defer c.Close()
	var all []netip.Prefix
	for _, list := range [...]struct {
		request int
		header  nl.NetlinkRequestData
		attr    uint16 // the prefix
	}{
		{unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC), unix.IFA_ADDRESS},
		{unix.RTM_GETROUTE, &nl.RtMsg{}, unix.RTA_DST},
	} {
		messages, err := c.List(list.request, list.header)
		if err != nil {
			return nil, fmt.Errorf("list addresses and routes of the host: %w", err)
		}
		for _, m := range messages {
			if p := prefix(m, list.header.Len(), list.attr); p.Bits() >= broadRoute && !p.Addr().IsLoopback() {
				all = append(all, p)
			}
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all), nil
}

// prefix returns the network of an address or a route, whose header has the prefix length in
// its second byte; not valid for a default route.
func prefix(m []byte, header int, attr uint16) netip.Prefix {
	if len(m) < header {
		return netip.Prefix{}
	}
	attrs, err := nl.ParseRouteAttr(m[header:])
	if err != nil {
		return netip.Prefix{}
	}
	for _, a := range attrs {
		if a.Attr.Type == attr {
			addr, _ := netip.AddrFromSlice(a.Value)
			return netip.PrefixFrom(addr, int(m[1])).Masked()
		}
	}
	return netip.Prefix{}
}
