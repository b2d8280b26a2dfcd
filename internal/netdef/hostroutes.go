package netdef

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
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
	addrs, err := dump(unix.RTM_GETADDR)
	if err != nil {
		return nil, fmt.Errorf("list addresses of the host: %w", err)
	}
	routes, err := dump(unix.RTM_GETROUTE)
	if err != nil {
		return nil, fmt.Errorf("list routes of the host: %w", err)
	}
	var all []netip.Prefix
	for _, m := range append(addrs, routes...) {
		if p := prefix(&m); p.Bits() >= broadRoute && !p.Addr().IsLoopback() {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all), nil
}

// dump lists what the kernel has of both families, again if others have changed it
// meanwhile. Every start waits for this, and package syscall asks with a twentieth of the
// memory that the netlink library takes.
func dump(request int) ([]syscall.NetlinkMessage, error) {
	for range dumps {
		raw, err := syscall.NetlinkRIB(request, unix.AF_UNSPEC)
		if err != nil {
			return nil, err
		}
		all, err := syscall.ParseNetlinkMessage(raw)
		changed := func(m syscall.NetlinkMessage) bool { return m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 }
		if err != nil || !slices.ContainsFunc(all, changed) {
			return all, err
		}
	}
	return nil, unix.EINTR
}

// prefix is the network of an address or a route; not valid for a default route and for
// other messages.
func prefix(m *syscall.NetlinkMessage) netip.Prefix {
	attr := uint16(unix.RTA_DST)
	switch m.Header.Type {
	case unix.RTM_NEWADDR:
		attr = unix.IFA_ADDRESS
	case unix.RTM_NEWROUTE:
	default:
		return netip.Prefix{}
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return netip.Prefix{}
	}
	for _, a := range attrs {
		if a.Attr.Type == attr {
			addr, _ := netip.AddrFromSlice(a.Value)
			// The second byte is the prefix's length in both (struct ifaddrmsg, struct rtmsg).
			return netip.PrefixFrom(addr, int(m.Data[1])).Masked()
		}
	}
	return netip.Prefix{}
}
