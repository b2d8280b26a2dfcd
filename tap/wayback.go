package tap

import (
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A guest with several networks has one default route at a time. A remote client that came
// by another network would be answered by that route, from an address which is unknown
// there. So what is sent from a device's address goes by a table of the device's own.
const (
	// wayBackTable, with the index of a device added, is its table.
	wayBackTable = directTable + 1
	// wayBackPriority is that of the first rule. Marked packets are handled before.
	wayBackPriority = rulePriority + 10
)

// addWayBack routes by the gateway what the guest sends from addr, except to destinations
// with a more specific route, such as neighbours.
func (c *rtnetlinkConn) addWayBack(index int, addr, gateway netip.Addr) error {
	source := addr.AsSlice()
	table := nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(uint32(wayBackTable+index)))
	route := nl.NewRtMsg()
	route.Family, route.Table = uint8(family(source)), unix.RT_TABLE_UNSPEC
	if err := c.Change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, route, table,
		nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice()), nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index)))); err != nil {
		return fail("cannot set the way back by "+gateway.String(), err, hintConfigure(err))
	}
	for i, attrs := range [][]*nl.RtAttr{
		{nl.NewRtAttr(nl.FRA_TABLE, nl.Uint32Attr(unix.RT_TABLE_MAIN)), nl.NewRtAttr(nl.FRA_SUPPRESS_PREFIXLEN, nl.Uint32Attr(0))},
		{nl.NewRtAttr(nl.FRA_TABLE, table.Data)},
	} {
		rule := nl.NewRtMsg()
		rule.Family, rule.Table, rule.Type = route.Family, unix.RT_TABLE_UNSPEC, unix.FR_ACT_TO_TBL
		rule.Src_len = uint8(addr.BitLen())
		parts := []nl.NetlinkRequestData{rule, nl.NewRtAttr(nl.FRA_SRC, source),
			nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(wayBackPriority+uint32(i)))}
		for _, a := range attrs {
			parts = append(parts, a)
		}
		switch err := c.Change(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...); err {
		case nil, unix.EEXIST: // a predecessor's
		case unix.EOPNOTSUPP, unix.EAFNOSUPPORT:
			return nil // without policy routing remote clients must come by the default route
		default:
			return fail("cannot set the way back from "+addr.String(), err, hintConfigure(err))
		}
	}
	return nil
}
