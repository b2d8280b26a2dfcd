package tap

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netns is a route netlink socket in the network namespace we are in.
type netns struct {
	h *netlink.Handle
}

func newNetlink() (*netns, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fail("open netlink socket", err, "")
	}
	return &netns{h}, nil
}

// find returns the named interface, nil when there is none.
func (n *netns) find(name string) (netlink.Link, error) {
	if name == "" {
		return nil, nil
	}
	link, err := n.h.LinkByName(name)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return nil, nil
	}
	if err != nil {
		return nil, fail("look up interface "+name, err, "")
	}
	return link, nil
}

// configure brings the namespace into the state of slirp4netns -c: loopback and
// device up, MTU, MAC, address, default route. IPv6 is left to the kernel, which
// takes its address and route from router advertisements.
func (n *netns) configure(name string, want Network) error {
	lo, err := n.h.LinkByName("lo")
	if err == nil {
		err = n.h.LinkSetUp(lo)
	}
	if err != nil {
		return fail("cannot bring up lo", err, hintConfigure(err))
	}
	link, err := n.h.LinkByName(name)
	if err != nil {
		return fail("cannot find "+name, err, "it was deleted or renamed meanwhile")
	}
	if want.MTU != 0 {
		if err := n.h.LinkSetMTU(link, want.MTU); err != nil {
			hint := hintConfigure(err)
			if errors.Is(err, unix.EINVAL) {
				hint = fmt.Sprintf("the kernel takes 68 to 65521 bytes, not %d", want.MTU)
			}
			return fail("cannot set MTU", err, hint)
		}
	}
	// Before the device is up: the kernel derives its IPv6 address from it.
	if want.MAC != nil {
		if err := n.h.LinkSetHardwareAddr(link, want.MAC); err != nil {
			hint := hintConfigure(err)
			if errors.Is(err, unix.EADDRNOTAVAIL) {
				hint = fmt.Sprintf("%s is no unicast address", want.MAC)
			}
			return fail("cannot set MAC address", err, hint)
		}
	}
	if want.Address.IsValid() {
		addr := &netlink.Addr{IPNet: &net.IPNet{
			IP:   want.Address.Addr().AsSlice(),
			Mask: net.CIDRMask(want.Address.Bits(), want.Address.Addr().BitLen()),
		}}
		// EEXIST: a persistent device that was configured before.
		if err := n.h.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fail("cannot set address "+want.Address.String(), err, hintConfigure(err))
		}
	}
	if err := n.h.LinkSetUp(link); err != nil {
		return fail("cannot bring up "+name, err, hintConfigure(err))
	}
	if want.Gateway.IsValid() {
		return n.defaultRoute(link, want)
	}
	return nil
}

// defaultRoute adds the route, and accepts one that is there if it is the same.
func (n *netns) defaultRoute(link netlink.Link, want Network) error {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: want.Gateway.AsSlice()}
	err := n.h.RouteAdd(route)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return fail("cannot set default route", err, hintConfigure(err))
	}
	family := netlink.FAMILY_V4
	if want.Gateway.Is6() {
		family = netlink.FAMILY_V6
	}
	routes, listErr := n.h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if listErr != nil {
		return fail("cannot set default route", err, "")
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		if r.LinkIndex == route.LinkIndex && r.Gw.Equal(route.Gw) {
			return nil
		}
		return fail("cannot set default route", err,
			fmt.Sprintf("the namespace has one already, via %s: delete it, or do not ask for configuration", r.Gw))
	}
	return fail("cannot set default route", err, "")
}

func hintConfigure(err error) string {
	if errors.Is(err, unix.EPERM) {
		return "configuring needs CAP_NET_ADMIN in the user namespace that owns the network namespace"
	}
	return ""
}
