package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// configure brings the namespace into the state of slirp4netns -c: loopback and
// device up, MTU, MAC, address, default route. IPv6 is left to the kernel, which
// takes its address and route from router advertisements.
func (c *rtnetlinkConn) configure(name string, want Network) error {
	if err := c.setLink(loIndex); err != nil {
		return fail("cannot bring up lo", err, hintConfigure(err))
	}
	link, err := c.find(name)
	if err == nil && link == nil {
		err = fail("cannot find "+name, unix.ENODEV, "it was deleted or renamed meanwhile")
	}
	if err != nil {
		return err
	}
	index := link.Attrs().Index
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
				hint = fmt.Sprintf("%s is no unicast address", want.MAC)
			}
			return fail("cannot set MAC address", err, hint)
		}
	}
	if want.Address.IsValid() {
		// EEXIST: a persistent device that was configured before.
		if err := c.addAddress(index, want.Address); err != nil && err != unix.EEXIST {
			return fail("cannot set address "+want.Address.String(), err, hintConfigure(err))
		}
	}
	if err := c.setLink(index); err != nil {
		return fail("cannot bring up "+name, err, hintConfigure(err))
	}
	if want.Gateway.IsValid() {
		return c.defaultRoute(index, want.Gateway)
	}
	return nil
}

func (c *rtnetlinkConn) addAddress(index int, addr netip.Prefix) error {
	ip := addr.Addr().AsSlice()
	msg := nl.NewIfAddrmsg(family(ip))
	msg.Index, msg.Prefixlen = uint32(index), uint8(addr.Bits())
	parts := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip)}
	if addr.Addr().Is4() && addr.Bits() < 31 { // RFC 3021: smaller subnets have none
		broadcast := binary.BigEndian.Uint32(ip) | ^uint32(0)>>addr.Bits()
		parts = append(parts, nl.NewRtAttr(unix.IFA_BROADCAST, binary.BigEndian.AppendUint32(nil, broadcast)))
	}
	return c.change(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...)
}

// defaultRoute adds the route, and accepts one that is there if it is the same.
func (c *rtnetlinkConn) defaultRoute(index int, gateway netip.Addr) error {
	gw := gateway.AsSlice()
	msg := nl.NewRtMsg()
	msg.Family = uint8(family(gw))
	err := c.change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, msg,
		nl.NewRtAttr(unix.RTA_GATEWAY, gw), nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	if err == nil {
		return nil
	}
	hint := hintConfigure(err)
	if err == unix.EEXIST {
		gw, oif := c.findDefault(msg.Family)
		if there, ok := netip.AddrFromSlice(gw); ok && there == gateway && oif == index {
			return nil
		}
		hint = fmt.Sprintf("the namespace has one already, via %s: delete it, or do not ask for configuration", net.IP(gw))
	}
	return fail("cannot set default route", err, hint)
}

// findDefault is the gateway and the interface of the default route that the
// main table has now.
func (c *rtnetlinkConn) findDefault(family uint8) (gateway []byte, index int) {
	msg := nl.NewRtMsg()
	msg.Family = family
	routes, err := c.ask(unix.RTM_GETROUTE, unix.NLM_F_DUMP, msg)
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
		for _, a := range attrs {
			switch {
			case a.Attr.Type == unix.RTA_GATEWAY:
				gateway = a.Value
			case a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4:
				index = int(binary.NativeEndian.Uint32(a.Value))
			}
		}
		return gateway, index
	}
	return nil, 0
}

func hintConfigure(err error) string {
	if errors.Is(err, unix.EPERM) {
		return "configuring needs CAP_NET_ADMIN in the user namespace that owns the network namespace"
	}
	return ""
}
