package tap

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What transparent sockets need of the guest's routing. A server of the guest
// answers a client's own address, which leads to the TAP; the mark, which a
// connection takes over from its first segment, leads the answer back to our
// socket instead.
const (
	// directMark is on what our transparent sockets send: "EPIP".
	directMark = 0x45504950
	// directTable has one route: everything is local.
	directTable = 45504950
	// Rules are looked at in this order, before those of the main table, 32766.
	rulePriority = 30100
)

// policy names the guest's subnets. Marked packets to and from them stay in the
// namespace; where the guest sends a marked packet elsewhere, as one with
// containers of its own does, ours are in the way and must not catch it.
type policy struct {
	Prefix4  netip.Prefix
	Gateway4 netip.Addr
	Prefix6  netip.Prefix
	Gateway6 netip.Addr
}

// routeMarked sets up what can be set up. A family without it has plain
// sockets only.
func (n *netns) routeMarked(p policy) *reply {
	// Connections take the mark over from the segment that opens them; and a
	// reset, which belongs to no connection, from what it answers.
	if !setting("net/ipv4/tcp_fwmark_accept") {
		return &reply{}
	}
	rep := &reply{}
	if p.Prefix4.IsValid() && setting("net/ipv4/fwmark_reflect") {
		rep.Marked4 = n.addPolicy(netlink.FAMILY_V4, p.Prefix4, p.Gateway4) == nil
	}
	if p.Prefix6.IsValid() && setting("net/ipv6/fwmark_reflect") {
		rep.Marked6 = n.addPolicy(netlink.FAMILY_V6, p.Prefix6, p.Gateway6) == nil
	}
	return rep
}

func setting(name string) bool {
	return os.WriteFile("/proc/sys/"+name, []byte("1"), 0) == nil
}

func (n *netns) addPolicy(family int, prefix netip.Prefix, gateway netip.Addr) error {
	lo, err := n.h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := n.h.LinkSetUp(lo); err != nil {
		return err
	}
	all := net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	if family == netlink.FAMILY_V4 {
		all = net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	route := &netlink.Route{
		Family: family, LinkIndex: lo.Attrs().Index, Dst: &all, Table: directTable,
		Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	}
	if err := n.h.RouteReplace(route); err != nil {
		return err
	}
	subnet, router := ipNet(prefix), ipNet(netip.PrefixFrom(gateway, gateway.BitLen()))
	rules := [...]netlink.Rule{
		{Dst: subnet, Table: directTable},
		// Clients that are seen as the gateway have an address of the subnet,
		// too; sent elsewhere by the guest, they are not for its own servers.
		{Src: router, Type: unix.RTN_UNREACHABLE},
		{Src: subnet, Table: directTable},
	}
	for i := range rules {
		r := netlink.NewRule()
		r.Family, r.Mark, r.Priority = family, directMark, rulePriority+i
		r.Dst, r.Src, r.Type = rules[i].Dst, rules[i].Src, rules[i].Type
		if r.Table = rules[i].Table; r.Table == 0 {
			r.Table = -1
		}
		// EEXIST: a predecessor's.
		if err := n.h.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
