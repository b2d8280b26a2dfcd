package tap

import (
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Transparent sockets need routing of their own in the guest. A server answers the
// client's address, which leads to the TAP; the mark, which a connection takes over
// from its first segment, leads the answer back to our socket instead.
const (
	// directMark is the mark on packets of our transparent sockets: "EPIP".
	directMark = 0x45504950
	// directTable has one route, which makes every address local.
	directTable = 45504950
	// rulePriority is that of the first rule. The main table's is 32766, and
	// lower ones come first.
	rulePriority = 30100
	// maxLeftRules bounds what dropLeftRules deletes of each kind; a program has fewer.
	maxLeftRules = 256
)

// subnet is one of the guest's. Marked packets to and from it stay in the
// namespace. A guest with containers of its own sends marked packets elsewhere,
// too, by address translation; our rules must not catch those.
type subnet struct {
	prefix  netip.Prefix
	gateway netip.Addr
}

// route sets up the routing that transparent sockets need, and reports for which of the
// families that worked. The others have plain sockets only. Connections that are carried have
// rules of their own, each while it is.
func (cfg *AgentConfig) route(j *join) (transparent [2]bool, err error) {
	requests := []request{openRtnetlink()}
	if !cfg.NoStreams {
		setting := func(name string) request { return openFile("/proc/sys/net/"+name, unix.O_WRONLY) }
		// Connections take over the mark of the segment that opens them. A reset,
		// which belongs to no connection, takes that of the segment it answers.
		requests = append(requests, setting("ipv4/tcp_fwmark_accept"), setting("ipv4/fwmark_reflect"), setting("ipv6/fwmark_reflect"))
	}
	got, err := ask(j, requests...)
	if err != nil {
		return transparent, err
	}
	settings := got[1:]
	defer closeResults(settings)
	c, err := newRtnetlinkConn(got[0])
	if err != nil {
		return transparent, err
	}
	defer c.Close()
	if !cfg.NoStreams && !switchOn(settings[0]) {
		return transparent, nil
	}
	if cfg.Carries {
		c.dropLeftRules()
	}
	for f, s := range [...]subnet{{cfg.Subnet4, cfg.Gateway4}, {cfg.Subnet6, cfg.Gateway6}} {
		transparent[f] = s.prefix.IsValid() && c.hasRules(s) && c.addLocalTable(s) == nil &&
			(cfg.NoStreams || switchOn(settings[1+f]) && c.addRules(s) == nil)
	}
	return transparent, nil
}

// hasRules reports whether the kernel has policy routing (IP_MULTIPLE_TABLES,
// IPV6_MULTIPLE_TABLES). One without puts a route of any table into the main one, where ours
// would take the place of the guest's default route.
func (c *rtnetlinkConn) hasRules(s subnet) bool {
	// There is none like this to delete.
	err := c.Change(unix.RTM_DELRULE, 0, leftRule(family(s.prefix.Addr().AsSlice()), rulePriority-1)...)
	return err == unix.ENOENT
}

// dropLeftRules deletes the rules that a predecessor which was killed has left for carried
// connections.
func (c *rtnetlinkConn) dropLeftRules() {
	for _, family := range [...]int{unix.AF_INET, unix.AF_INET6} {
		for _, priority := range [...]uint32{carryPriority, holdPriority} {
			for range maxLeftRules {
				if c.Change(unix.RTM_DELRULE, 0, leftRule(family, priority)...) != nil {
					break
				}
			}
		}
	}
}

func switchOn(setting result) bool {
	if setting.err != nil {
		return false
	}
	_, err := unix.Write(setting.fd, []byte("1"))
	return err == nil
}

// addLocalTable makes the table that leads to lo.
func (c *rtnetlinkConn) addLocalTable(s subnet) error {
	if err := c.setLink(loIndex); err != nil {
		return err
	}
	route := nl.NewRtMsg()
	route.Family, route.Table = uint8(family(s.prefix.Addr().AsSlice())), unix.RT_TABLE_UNSPEC
	route.Type, route.Scope = unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	return c.Change(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, route,
		nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(directTable)), nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(loIndex)))
}

// addRules leads marked packets of the subnet to that table.
func (c *rtnetlinkConn) addRules(s subnet) error {
	network, router := s.prefix.Masked().Addr().AsSlice(), s.gateway.AsSlice()
	for i, r := range []struct {
		action   uint8
		dst, src uint8 // lengths of their prefixes
		attr     *nl.RtAttr
	}{
		{unix.FR_ACT_TO_TBL, uint8(s.prefix.Bits()), 0, nl.NewRtAttr(nl.FRA_DST, network)},
		// Clients that are seen as the gateway have an address of the subnet, too,
		// but packets from it to elsewhere are not for the guest's own servers.
		{unix.FR_ACT_UNREACHABLE, 0, uint8(s.gateway.BitLen()), nl.NewRtAttr(nl.FRA_SRC, router)},
		{unix.FR_ACT_TO_TBL, 0, uint8(s.prefix.Bits()), nl.NewRtAttr(nl.FRA_SRC, network)},
	} {
		rule := nl.NewRtMsg()
		rule.Family, rule.Table, rule.Type = uint8(family(network)), unix.RT_TABLE_UNSPEC, r.action
		rule.Dst_len, rule.Src_len = r.dst, r.src
		parts := []nl.NetlinkRequestData{rule, r.attr,
			nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(rulePriority+uint32(i))),
			nl.NewRtAttr(nl.FRA_FWMARK, nl.Uint32Attr(directMark))}
		if r.action == unix.FR_ACT_TO_TBL {
			parts = append(parts, nl.NewRtAttr(nl.FRA_TABLE, nl.Uint32Attr(directTable)))
		}
		// EEXIST: a predecessor's.
		if err := c.Change(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...); err != nil && err != unix.EEXIST {
			return err
		}
	}
	return nil
}
