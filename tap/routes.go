package tap

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"epiphyte/internal/hostnet"
)

// copyRoutes adds the routes of a family, and reports whether there is a default route
// among them. A route may need another, to its gateway, so they are tried until no more
// are accepted.
func (c *rtnetlinkConn) copyRoutes(index int, routes []hostnet.Route, v6 bool) (out bool, err error) {
	var left []hostnet.Route
	for _, r := range routes {
		if r.Dst.Addr().Is6() == v6 {
			left = append(left, r)
		}
	}
	for progress := true; progress && len(left) > 0; {
		progress = false
		var refused []hostnet.Route
		for _, r := range left {
			err := c.addRoute(index, &r)
			if r.Metrics != nil && (err == unix.EINVAL || err == unix.ENOENT) {
				r.Metrics = nil // a congestion control, say, that the guest may not have
				err = c.addRoute(index, &r)
			}
			switch err {
			case nil, unix.EEXIST: // the kernel itself adds those to the addresses' subnets
				progress, out = true, out || r.Default()
			case unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.EAFNOSUPPORT:
				return false, fail("cannot set route to "+r.Dst.String(), err, hintConfigure(err))
			default:
				refused = append(refused, r)
			}
		}
		left = refused
	}
	return out, nil
}

func (c *rtnetlinkConn) addRoute(index int, r *hostnet.Route) error {
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len, msg.Tos, msg.Scope = unix.AF_INET, uint8(r.Dst.Bits()), r.TOS, r.Scope
	if r.Dst.Addr().Is6() {
		msg.Family = unix.AF_INET6
	}
	parts := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(r.Metric))}
	if !r.Default() {
		parts = append(parts, nl.NewRtAttr(unix.RTA_DST, r.Dst.Addr().AsSlice()))
	}
	if r.Metrics != nil {
		parts = append(parts, nl.NewRtAttr(unix.RTA_METRICS|unix.NLA_F_NESTED, r.Metrics))
	}
	if len(r.More) > 0 {
		hops := appendHop(nil, index, &r.Hop, r.Dst.Addr())
		for i := range r.More {
			hops = appendHop(hops, index, &r.More[i], r.Dst.Addr())
		}
		parts = append(parts, nl.NewRtAttr(unix.RTA_MULTIPATH, hops))
	} else {
		msg.Flags |= hopFlags(&r.Hop)
		parts = append(parts, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
		if r.Gateway.IsValid() {
			parts = append(parts, gatewayAttr(r.Gateway, r.Dst.Addr()))
		}
	}
	return c.Change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...)
}

func hopFlags(h *hostnet.Hop) uint32 {
	if h.OnLink {
		return unix.RTNH_F_ONLINK
	}
	return 0
}

// appendHop appends one of several hops of a route to dst (struct rtnexthop of
// linux/rtnetlink.h).
func appendHop(b []byte, index int, h *hostnet.Hop, dst netip.Addr) []byte {
	var gateway []byte
	if h.Gateway.IsValid() {
		gateway = gatewayAttr(h.Gateway, dst).Serialize()
	}
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtNexthop+len(gateway)))
	b = append(b, byte(hopFlags(h)), h.Weight)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return append(b, gateway...)
}

// gatewayAttr names the gateway of a route to dst: of another family it is a struct rtvia
// (linux/rtnetlink.h).
func gatewayAttr(gateway, dst netip.Addr) *nl.RtAttr {
	if gateway.Is4() == dst.Is4() {
		return nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice())
	}
	via := nl.Uint16Attr(uint16(family(gateway.AsSlice())))
	return nl.NewRtAttr(unix.RTA_VIA, append(via, gateway.AsSlice()...))
}
