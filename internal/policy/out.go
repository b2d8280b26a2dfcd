package policy

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	portDNS         = 53
	portDHCPServer  = 67
	portDHCP6Server = 547
)

// decideOut decides about what the guest sends.
func (r *Rules) decideOut(q *Request) Decision {
	addr, port := q.Dst.Addr(), q.Dst.Port()
	if q.Proto == unix.IPPROTO_UDP {
		if port == portDHCPServer && (addr == limitedBroadcast() || addr == r.Plan.Gateway) {
			return Decision{Action: ServeDHCP}
		}
		if port == portDHCP6Server && (addr == allDHCPServers() || r.Plan.IPv6() && r.Plan.IsGateway(addr)) {
			return Decision{Action: ServeDHCP6}
		}
	}
	switch {
	case r.Plan.IsGateway(addr):
		return r.decideGateway(q.Dst)
	case r.Plan.IsDNS(addr):
		return r.decideDNS(q)
	case !routable(addr), r.Plan.Prefix.Contains(addr), r.Plan.IPv6() && r.Plan.Prefix6.Contains(addr):
		return Decision{}
	}
	return Decision{Action: Allow, To: q.Dst}
}

// decideDNS decides about a DNS address that is not the gateway's.
func (r *Rules) decideDNS(q *Request) Decision {
	switch {
	case r.DisableDNS && q.Dst.Addr().IsLinkLocalUnicast():
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	case r.DisableDNS:
		return Decision{Action: Allow, To: q.Dst}
	case q.Dst.Port() == portDNS:
		return Decision{Action: ServeDNS}
	case q.Proto == unix.IPPROTO_UDP:
		return Decision{Action: Refuse, Errno: unix.ECONNREFUSED}
	default:
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	}
}

// decideGateway decides about the gateway. Where it has the DNS server's address, one
// of its ports is the server's.
func (r *Rules) decideGateway(dst netip.AddrPort) Decision {
	switch {
	case dst.Port() == portDNS && r.Plan.IsDNS(dst.Addr()) && !r.DisableDNS:
		return Decision{Action: ServeDNS}
	case r.DisableHostLoopback:
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	}
	loopback := netip.IPv6Loopback()
	if dst.Addr().Is4() {
		loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return Decision{Action: Allow, To: netip.AddrPortFrom(loopback, dst.Port())}
}

// routable reports whether a host socket may be asked to reach addr. The kernel would
// treat all other addresses as local or multicast: connecting to 0.0.0.0 or :: reaches
// loopback, and IPv4-mapped and IPv4-compatible addresses hide IPv4 ones.
func routable(addr netip.Addr) bool {
	switch {
	case !addr.IsValid(), addr.IsUnspecified(), addr.IsLoopback(), addr.IsMulticast(), addr.Is4In6():
		return false
	case addr.Is4():
		return addr.As4()[0] != 0 && addr != limitedBroadcast()
	default:
		// Link-local addresses need a scope that the guest cannot name.
		return !addr.IsLinkLocalUnicast() && !v4Compatible(addr)
	}
}

// v4Compatible reports whether addr is in ::/96 (RFC 4291 section 2.5.5.1).
func v4Compatible(addr netip.Addr) bool {
	b := addr.As16()
	return [12]byte(b[:12]) == [12]byte{}
}

func limitedBroadcast() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

// allDHCPServers is All_DHCP_Relay_Agents_and_Servers, RFC 8415 section 7.1.
func allDHCPServers() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 13: 0x01, 15: 0x02})
}
