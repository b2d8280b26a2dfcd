package hostnet

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"epiphyte/internal/rtnetlink"
)

// strict has the kernel list only the main table (Linux 4.20). Without it we skip the rest.
func strict(c *rtnetlink.Conn) {
	unix.SetsockoptInt(c.FD, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
}

// list asks for everything of a type. A list that keeps changing is taken as it comes.
func list(c *rtnetlink.Conn, typ int, header nl.NetlinkRequestData) ([][]byte, error) {
	all, err := c.List(typ, header)
	if err == rtnetlink.ErrInterrupted {
		err = nil
	}
	return all, err
}

func readLinks(n *Network, c *rtnetlink.Conn) error {
	messages, err := list(c, unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC))
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		info := nl.DeserializeIfInfomsg(m)
		l := Link{Index: int(info.Index), Up: info.Flags&unix.IFF_UP != 0, Loopback: loopback(info.Flags)}
		for typ, value := range attributes(m[unix.SizeofIfInfomsg:]) {
			if typ == unix.IFLA_IFNAME {
				l.Name = unix.ByteSliceToString(value)
			}
		}
		n.Links = append(n.Links, l)
	}
	return err
}

func readAddresses(n *Network, c *rtnetlink.Conn) error {
	messages, err := list(c, unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	for _, m := range messages {
		if a, ok := parseAddress(m); ok {
			n.Addresses = append(n.Addresses, a)
		}
	}
	return err
}

func parseAddress(m []byte) (Address, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return Address{}, false
	}
	msg := nl.DeserializeIfAddrmsg(m)
	flags := uint32(msg.Flags)
	var ip, local netip.Addr
	for typ, value := range attributes(m[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_ADDRESS:
			ip, _ = netip.AddrFromSlice(value)
		case unix.IFA_LOCAL: // on a point-to-point link IFA_ADDRESS is the peer's
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_FLAGS:
			flags = word(value)
		}
	}
	if local.IsValid() {
		ip = local
	}
	if msg.Scope >= unix.RT_SCOPE_LINK || flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 || !ip.IsGlobalUnicast() {
		return Address{}, false
	}
	return Address{
		Link: int(msg.Index), Prefix: netip.PrefixFrom(ip, int(msg.Prefixlen)), Deprecated: flags&unix.IFA_F_DEPRECATED != 0,
	}, true
}

func readRoutes(n *Network, c *rtnetlink.Conn) error {
	for _, family := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		msg := nl.NewRtMsg()
		msg.RtMsg = unix.RtMsg{Family: family, Table: unix.RT_TABLE_MAIN}
		messages, err := list(c, unix.RTM_GETROUTE, msg)
		switch {
		case err == unix.ENOENT: // there is no such table yet
		case family == unix.AF_INET6 && (err == unix.EOPNOTSUPP || err == unix.EAFNOSUPPORT):
		case err != nil:
			return err
		}
		for _, m := range messages {
			n.Routes = append(n.Routes, parseRoute(m)...)
		}
	}
	return nil
}

// parseRoute reads a route of the main table, one for each interface; none if it is another.
func parseRoute(m []byte) []Route {
	if len(m) < unix.SizeofRtMsg {
		return nil
	}
	msg := nl.DeserializeRtMsg(m)
	if msg.Type != unix.RTN_UNICAST || msg.Flags&unix.RTM_F_CLONED != 0 || msg.Table != unix.RT_TABLE_MAIN || msg.Src_len != 0 {
		return nil
	}
	r := Route{Scope: msg.Scope, TOS: msg.Tos, Kernel: msg.Protocol == unix.RTPROT_KERNEL}
	r.OnLink = msg.Flags&unix.RTNH_F_ONLINK != 0
	dst := netip.IPv4Unspecified()
	if msg.Family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	var hops []byte
	for typ, value := range attributes(m[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(value)
		case unix.RTA_PRIORITY:
			r.Metric = word(value)
		case unix.RTA_METRICS:
			r.Metrics = value
		case unix.RTA_MULTIPATH:
			hops = value
		default:
			r.hop(typ, value)
		}
	}
	r.Dst = netip.PrefixFrom(dst, int(msg.Dst_len))
	if !r.Dst.IsValid() {
		return nil
	}
	if hops != nil {
		return r.each(hops)
	}
	if r.Link == 0 {
		return nil
	}
	return []Route{r}
}

// hop takes an attribute of a next hop.
func (r *Route) hop(typ uint16, value []byte) {
	switch typ {
	case unix.RTA_OIF:
		r.Link = int(word(value))
	case unix.RTA_GATEWAY:
		r.Gateway, _ = netip.AddrFromSlice(value)
	case unix.RTA_VIA: // struct rtvia of linux/rtnetlink.h
		if len(value) > 2 {
			r.Gateway, _ = netip.AddrFromSlice(value[2:])
		}
	}
}

// each splits a route with several hops (struct rtnexthop of linux/rtnetlink.h) by interface.
func (r Route) each(hops []byte) (all []Route) {
	for len(hops) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(hops))
		if size < unix.SizeofRtNexthop || size > len(hops) {
			break
		}
		one := r
		one.OnLink = one.OnLink || hops[2]&unix.RTNH_F_ONLINK != 0
		one.Link, one.Weight = int(word(hops[4:8])), hops[3]
		for typ, value := range attributes(hops[unix.SizeofRtNexthop:size]) {
			one.hop(typ, value)
		}
		if i := slices.IndexFunc(all, func(r Route) bool { return r.Link == one.Link }); i >= 0 {
			all[i].More = append(all[i].More, one.Hop)
		} else {
			all = append(all, one)
		}
		hops = hops[min(len(hops), aligned(size)):]
	}
	return all
}

// attributes iterates over those of b (struct rtattr of linux/rtnetlink.h), by type, up to
// one that is truncated.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^nested, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min(len(b), aligned(size)):]
		}
	}
}

// nested are the flags of an attribute's type (NLA_TYPE_MASK of linux/netlink.h).
const nested = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER

// aligned rounds a size up to where the next element begins (RTA_ALIGN, RTNH_ALIGN).
func aligned(size int) int { return (size + 3) &^ 3 }

// word reads an attribute of four bytes, zero if it is of another size.
func word(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
