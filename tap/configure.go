package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"epiphyte/internal/retry"
)

// configure brings the namespace into the state of slirp4netns -c: loopback and
// device up, MTU, MAC, address, default route. It does the same for IPv6, which so
// does not depend on settings that make the kernel ignore or forget router
// advertisements (accept_ra, forwarding). It reports whether the guest has the IPv6
// address.
func (c *rtnetlinkConn) configure(ctx context.Context, name string, want Network) (ipv6 bool, err error) {
	if err := c.loopbackUp(); err != nil {
		return false, err
	}
	index, err := c.index(name)
	if err == nil && index == 0 {
		err = fail("cannot find "+name, unix.ENODEV, "it was deleted or renamed meanwhile")
	}
	if err != nil {
		return false, err
	}
	if err := c.configureLink(index, name, want); err != nil {
		return false, err
	}
	if err := c.gatewayRoutes(index, &want, want.Address.Addr(), want.Gateway, want.metric(index)); err != nil {
		return false, err
	}
	return c.configureIPv6(ctx, index, want)
}

func (c *rtnetlinkConn) loopbackUp() error {
	if err := c.setLink(loIndex); err != nil {
		return fail("cannot bring up "+loName, err, hintConfigure(err))
	}
	return nil
}

// gatewayRoutes sets the default route of one family by the gateway, and in a namespace
// with several networks the route back by it (wayback.go).
func (c *rtnetlinkConn) gatewayRoutes(index int, want *Network, addr, gateway netip.Addr, metric uint32) error {
	if !gateway.IsValid() {
		return nil
	}
	out, err := c.copyRoutes(index, want.Routes, gateway.Is6())
	if err == nil && !out {
		err = c.defaultRoute(index, gateway, !want.reaches(gateway), metric)
	}
	if err != nil || !want.Shared {
		return err
	}
	return c.addWayBack(index, addr, gateway)
}

// reaches reports whether the guest's addresses say that a gateway is on its link.
func (n *Network) reaches(gateway netip.Addr) bool {
	return gateway.Is6() && gateway.IsLinkLocalUnicast() || n.Address.Contains(gateway) || n.Address6.Contains(gateway) ||
		slices.ContainsFunc(n.More, func(a netip.Prefix) bool { return a.Contains(gateway) })
}

// metric is that of an interface's default routes, lower the older it is; the kernel
// prefers 0.
func (n *Network) metric(index int) uint32 {
	if !n.Shared {
		return 0
	}
	return uint32(index) // grows with each interface of a namespace
}

// configureLink sets all but IPv6, and brings the device up.
func (c *rtnetlinkConn) configureLink(index int, name string, want Network) error {
	if want.MTU != 0 {
		if err := c.setLink(index, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(want.MTU)))); err != nil {
			hint := hintConfigure(err)
			if errors.Is(err, unix.EINVAL) {
				hint = fmt.Sprintf("the kernel takes 68 to 65521 bytes, not %d", want.MTU)
			}
			return fail("cannot set MTU", err, hint)
		}
	}
	// Before the device is up: the kernel derives its IPv6 address from it.
	if want.MAC != nil {
		if err := c.setLink(index, nl.NewRtAttr(unix.IFLA_ADDRESS, want.MAC)); err != nil {
			hint := hintConfigure(err)
			if errors.Is(err, unix.EADDRNOTAVAIL) {
				hint = fmt.Sprintf("%s is not a unicast address", want.MAC)
			}
			return fail("cannot set MAC address", err, hint)
		}
	}
	if want.LinkDown {
		return nil
	}
	if want.Address.IsValid() {
		if err := c.addAddresses(index, append([]netip.Prefix{want.Address}, want.More...), false); err != nil {
			return err
		}
	}
	if err := c.setLink(index); err != nil {
		return fail("cannot bring up "+name, err, hintConfigure(err))
	}
	return nil
}

// metricIPv6 puts our default route before those that the kernel makes of router
// advertisements (1024, IP6_RT_PRIO_USER), with which it would alternate.
const metricIPv6 = 512

// configureIPv6 sets the addresses and the default route of a device that is up, if
// the guest has IPv6 at all. Without an address it has its link-local one.
func (c *rtnetlinkConn) configureIPv6(ctx context.Context, index int, want Network) (done bool, err error) {
	if !want.Address6.IsValid() && !want.Gateway6.IsValid() {
		return false, nil
	}
	if want.Address6.IsValid() {
		if err = c.addAddresses(index, append([]netip.Prefix{want.Address6}, want.More...), true); err == nil {
			err = c.awaitLocal(ctx, want.Address6.Addr())
		}
	}
	if err == nil {
		err = c.gatewayRoutes(index, &want, want.Address6.Addr(), want.Gateway6, metricIPv6+want.metric(index))
	}
	if withoutIPv6(err) {
		return false, nil
	}
	return err == nil, err
}

// withoutIPv6 reports whether err comes from the sysctl disable_ipv6, or from a kernel
// without IPv6. Callers ask for both families without knowing.
func withoutIPv6(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)
}

// addAddresses adds those of one family, so that the kernel lists them in their order: it
// lists the latest of IPv6 first (ipv6_link_dev_addr in net/ipv6/addrconf.c). EEXIST: a
// persistent device that was configured before.
func (c *rtnetlinkConn) addAddresses(index int, list []netip.Prefix, v6 bool) error {
	if v6 {
		slices.Reverse(list)
	}
	for _, a := range list {
		if a.Addr().Is6() != v6 {
			continue
		}
		if err := c.addAddress(index, a); err != nil && err != unix.EEXIST {
			return fail("cannot set address "+a.String(), err, hintConfigure(err))
		}
	}
	return nil
}

// awaitLocal waits, at most busyFor, until the guest accepts packets for its new address:
// the kernel adds the route for that in a work queue (addrconf_dad_work). Until then the
// answer to the guest's first solicitation would be lost, and the next one comes a second
// later.
func (c *rtnetlinkConn) awaitLocal(ctx context.Context, addr netip.Addr) error {
	return retry.While(ctx, busyFor, localPause, func() bool {
		msg := nl.NewRtMsg()
		msg.Family, msg.Dst_len = unix.AF_INET6, 128
		routes, err := c.Ask(unix.RTM_GETROUTE, unix.NLM_F_ACK, msg, nl.NewRtAttr(unix.RTA_DST, addr.AsSlice()))
		local := err == nil && len(routes) > 0 && len(routes[0]) >= unix.SizeofRtMsg && nl.DeserializeRtMsg(routes[0]).Type == unix.RTN_LOCAL
		return !local
	})
}

// localPause is the time between two checks; on an idle machine the work queue takes
// microseconds.
const localPause = 200 * time.Microsecond

func (c *rtnetlinkConn) addAddress(index int, addr netip.Prefix) error {
	ip := addr.Addr().AsSlice()
	msg := nl.NewIfAddrmsg(family(ip))
	msg.Index, msg.Prefixlen = uint32(index), uint8(addr.Bits())
	if addr.Addr().Is6() {
		// Nobody else is on the link, and a probe would take a second.
		msg.Flags = unix.IFA_F_NODAD
	}
	parts := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip)}
	if addr.Addr().Is4() && addr.Bits() < 31 { // RFC 3021: smaller subnets have none
		broadcast := binary.BigEndian.Uint32(ip) | ^uint32(0)>>addr.Bits()
		parts = append(parts, nl.NewRtAttr(unix.IFA_BROADCAST, binary.BigEndian.AppendUint32(nil, broadcast)))
	}
	return c.Change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...)
}

// defaultRoute adds the route, and accepts one that is there if it is the same. One of
// another metric is no obstacle. onLink takes the gateway to be on the link although no
// address says so.
func (c *rtnetlinkConn) defaultRoute(index int, gateway netip.Addr, onLink bool, metric uint32) error {
	gw := gateway.AsSlice()
	msg := nl.NewRtMsg()
	msg.Family = uint8(family(gw))
	if onLink {
		msg.Flags |= unix.RTNH_F_ONLINK
	}
	err := c.Change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, msg,
		nl.NewRtAttr(unix.RTA_GATEWAY, gw), nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))),
		nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(metric)))
	if err == nil {
		return nil
	}
	hint := hintConfigure(err)
	if err == unix.EEXIST {
		gw, oif := c.findDefault(msg.Family, metric)
		if there, ok := netip.AddrFromSlice(gw); ok && there == gateway && oif == index {
			return nil
		}
		hint = fmt.Sprintf("the namespace has one already, via %s: delete it, or do not ask for configuration", net.IP(gw))
	}
	return fail("cannot set default route", err, hint)
}

// findDefault returns the gateway and the interface of the main table's default route
// of the metric.
func (c *rtnetlinkConn) findDefault(family uint8, metric uint32) (gateway []byte, index int) {
	msg := nl.NewRtMsg()
	msg.Family = family
	routes, err := c.List(unix.RTM_GETROUTE, msg)
	if err != nil {
		return nil, 0
	}
	for _, r := range routes {
		if len(r) < unix.SizeofRtMsg {
			continue
		}
		msg := nl.DeserializeRtMsg(r)
		if msg.Table != unix.RT_TABLE_MAIN || msg.Dst_len != 0 {
			continue
		}
		attrs, err := nl.ParseRouteAttr(r[msg.Len():])
		if err != nil {
			continue
		}
		gateway, index = nil, 0
		var priority uint32
		for _, a := range attrs {
			switch {
			case a.Attr.Type == unix.RTA_GATEWAY:
				gateway = a.Value
			case a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4:
				index = int(binary.NativeEndian.Uint32(a.Value))
			case a.Attr.Type == unix.RTA_PRIORITY && len(a.Value) == 4:
				priority = binary.NativeEndian.Uint32(a.Value)
			}
		}
		if priority == metric {
			return gateway, index
		}
	}
	return nil, 0
}

func hintConfigure(err error) string {
	if errors.Is(err, unix.EPERM) {
		return "configuring needs CAP_NET_ADMIN in the user namespace that owns the network namespace"
	}
	return ""
}
