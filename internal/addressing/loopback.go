package addressing

import "net/netip"

// NewLoopback makes the plan of a guest that has no interface but lo, of one family or of
// both: its addresses are those of its loopback. The routers of the plan are never asked.
func NewLoopback(ipv4, ipv6 bool) Plan {
	p := Plan{Outside: true, MAC: CopiedMAC()}
	if ipv4 {
		p.Gateway = LocalGateway()
		p.Guest = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		p.Prefix = netip.PrefixFrom(p.Guest, 8).Masked()
		p.Addresses = append(p.Addresses, netip.PrefixFrom(p.Guest, 8))
	}
	if ipv6 {
		p.Gateway6, p.GatewayLinkLocal = LocalGateway6(), LocalGateway6()
		p.Guest6 = netip.IPv6Loopback()
		p.Addresses = append(p.Addresses, netip.PrefixFrom(p.Guest6, 128))
	}
	return p
}

// LoopbackOnly reports whether the guest has no interface but lo: it is reached only by
// sockets of its own namespace.
func (p *Plan) LoopbackOnly() bool { return p.Guest.IsLoopback() || p.Guest6.IsLoopback() }
