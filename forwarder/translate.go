package forwarder

import (
	"net/netip"

	"epiphyte/internal/plan"
	"epiphyte/stack"
)

// This file is the security boundary of the guest's way out: every connection,
// datagram and echo request passes Translate before a host socket is touched.
// It is pure; its table test is the boundary written down.

// Action is what becomes of a packet.
type Action int

// The actions. The zero Decision drops.
const (
	Drop       Action = iota // say nothing: the destination cannot be
	Connect                  // to Decision.To, by a host socket
	Refuse                   // with Decision.Why
	ServeDNS                 // our resolver answers
	ServeDHCP                // our DHCP server answers
	ServeDHCP6               // our stateless DHCPv6 server answers
)

// Decision is the outcome of Translate.
type Decision struct {
	Action Action
	To     netip.AddrPort
	Why    stack.Unreachable
}

// Rules are the configured part of the translation.
type Rules struct {
	Plan plan.Plan
	// DisableHostLoopback refuses what the gateway would map to 127.0.0.1 and
	// ::1.
	DisableHostLoopback bool
	// DisableDNS makes the plan's DNS address an ordinary destination.
	DisableDNS bool
}

const (
	portDNS         = 53
	portDHCPServer  = 67
	portDHCP6Server = 547
)

// Translate says where a packet of the guest to dst goes. For echo requests the
// port is zero.
func (r *Rules) Translate(proto uint8, dst netip.AddrPort) Decision {
	addr := dst.Addr()
	if proto == stack.ProtoUDP {
		if dst.Port() == portDHCPServer && (addr == limitedBroadcast() || addr == r.Plan.Gateway) {
			return Decision{Action: ServeDHCP}
		}
		if dst.Port() == portDHCP6Server && (addr == allDHCPServers() || r.Plan.IPv6() && r.Plan.IsGateway(addr)) {
			return Decision{Action: ServeDHCP6}
		}
	}
	switch {
	case r.Plan.IsDNS(addr):
		return r.translateDNS(proto, dst)
	case r.Plan.IsGateway(addr):
		return r.translateGateway(addr, dst.Port())
	case !routable(addr), r.Plan.Prefix.Contains(addr), r.Plan.IPv6() && r.Plan.Prefix6.Contains(addr):
		return Decision{}
	}
	return Decision{Action: Connect, To: dst}
}

func (r *Rules) translateDNS(proto uint8, dst netip.AddrPort) Decision {
	switch {
	case r.DisableDNS && dst.Addr().IsLinkLocalUnicast():
		return Decision{Action: Refuse, Why: stack.NetUnreachable}
	case r.DisableDNS:
		return Decision{Action: Connect, To: dst}
	case dst.Port() == portDNS:
		return Decision{Action: ServeDNS}
	case proto == stack.ProtoUDP:
		return Decision{Action: Refuse, Why: stack.PortUnreachable}
	default:
		return Decision{Action: Refuse, Why: stack.NetUnreachable}
	}
}

func (r *Rules) translateGateway(gateway netip.Addr, port uint16) Decision {
	if r.DisableHostLoopback {
		return Decision{Action: Refuse, Why: stack.NetUnreachable}
	}
	loopback := netip.IPv6Loopback()
	if gateway.Is4() {
		loopback = loopback4()
	}
	return Decision{Action: Connect, To: netip.AddrPortFrom(loopback, port)}
}

// TranslateSource is the address under which the guest sees a host-side
// sender, the inverse of Translate, and whether it may see it at all: what
// comes from the host's loopback comes from the gateway, and only where the
// guest may reach host loopback in the first place.
func (r *Rules) TranslateSource(src netip.Addr) (netip.Addr, bool) {
	src = src.Unmap().WithZone("")
	if !src.IsLoopback() {
		// Nobody outside may speak with the voice of our own addresses.
		own := r.Plan.IsGateway(src) || r.Plan.IsDNS(src) && (!r.DisableDNS || src.IsLinkLocalUnicast())
		return src, src.IsValid() && !src.IsUnspecified() && !own
	}
	if r.DisableHostLoopback {
		return netip.Addr{}, false
	}
	if src.Is4() {
		return r.Plan.Gateway, true
	}
	return r.Plan.Gateway6, r.Plan.IPv6()
}

// routable reports whether a host socket may be asked to reach addr. The
// kernel would take each of the others for this machine or for many machines:
// connecting to 0.0.0.0 or :: reaches loopback, and IPv4-mapped and
// IPv4-compatible addresses hide IPv4 ones.
func routable(addr netip.Addr) bool {
	switch {
	case !addr.IsValid(), addr.IsUnspecified(), addr.IsLoopback(), addr.IsMulticast(), addr.Is4In6():
		return false
	case addr.Is4():
		b := addr.As4()
		return b[0] != 0 && addr != limitedBroadcast()
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

func loopback4() netip.Addr        { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }
func limitedBroadcast() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

// allDHCPServers is All_DHCP_Relay_Agents_and_Servers, RFC 8415 section 7.1.
func allDHCPServers() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 13: 0x01, 15: 0x02})
}
