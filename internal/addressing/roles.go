package addressing

import (
	"net/netip"
	"slices"
)

// IPv4 reports whether the plan has an IPv4 side.
func (p *Plan) IPv4() bool { return p.Gateway.IsValid() }

// IPv6 reports whether the plan has an IPv6 side.
func (p *Plan) IPv6() bool { return p.Gateway6.IsValid() }

// IsGateway reports whether a is an address of the router, of either family.
func (p *Plan) IsGateway(a netip.Addr) bool {
	return a.IsValid() && (a == p.Gateway || a == p.Gateway6 || a == p.GatewayLinkLocal)
}

// IsDNS reports whether a is an address of the forwarding resolver.
func (p *Plan) IsDNS(a netip.Addr) bool {
	return a.IsValid() && (a == p.DNS || a == p.DNS6 || a == p.DNSLinkLocal)
}

// IsHostLoopback reports whether a stands for the host's loopback.
func (p *Plan) IsHostLoopback(a netip.Addr) bool { return slices.Contains(p.HostLoopback, a) }

// IsHostAddr reports whether a stands for the host's main address.
func (p *Plan) IsHostAddr(a netip.Addr) bool { return slices.Contains(p.HostAddrs, a) }

// IsGuest reports whether a is one of the guest's addresses, as far as the plan knows:
// the guest may have given itself another.
func (p *Plan) IsGuest(a netip.Addr) bool {
	for i := range p.Addresses {
		if p.Addresses[i].Addr() == a {
			return true
		}
	}
	return false
}

// IsOwn reports whether a is one of our own addresses: only we can have them, and we
// answer echo requests to them.
func (p *Plan) IsOwn(a netip.Addr) bool {
	return p.IsHostLoopback(a) || p.IsHostAddr(a) || !p.Outside && p.IsDNS(a) ||
		a == p.GatewayLinkLocal && a.IsValid()
}

// Own lists our own addresses, each once, those of IPv4 first.
func (p *Plan) Own() (own []netip.Addr) {
	for _, v4 := range [...]bool{true, false} {
		for _, list := range [...][]netip.Addr{p.HostLoopback, p.HostAddrs, {p.DNS, p.DNS6, p.DNSLinkLocal, p.GatewayLinkLocal}} {
			for _, a := range list {
				if p.IsOwn(a) && a.Is4() == v4 && !slices.Contains(own, a) {
					own = append(own, a)
				}
			}
		}
	}
	return own
}

// Inside reports whether a is in a subnet of only the guest and us.
func (p *Plan) Inside(a netip.Addr) bool {
	return !p.Outside && (p.Prefix.Contains(a) || p.Prefix6.Contains(a))
}

// Holds reports whether a is ours on the guest's link: anybody else who claims it there
// learns that it is taken.
func (p *Plan) Holds(a netip.Addr) bool { return p.IsOwn(a) || p.IsGateway(a) || p.IsDNS(a) }

// Answers reports whether we say on the guest's link that a is behind our Ethernet
// address. Where the guest's subnets lie outside, that holds for every address, since
// routes without a router may lead anywhere; except for the guest's own, those that no
// single machine can have, and link-local ones of IPv6, which stay on the link.
func (p *Plan) Answers(a netip.Addr) bool {
	if p.Holds(a) {
		return true
	}
	return p.Outside && standable(a) && (a.Is4() || !a.IsLinkLocalUnicast()) && !p.IsGuest(a)
}

// GatewayFor is the router's address as a guest with the address a sees it.
func (p *Plan) GatewayFor(a netip.Addr) netip.Addr {
	switch {
	case a.Is4():
		return p.Gateway
	case a.IsLinkLocalUnicast():
		return p.GatewayLinkLocal
	}
	return p.Gateway6
}

// LoopbackFor is the address by which a guest with the address a sees the host's loopback,
// not valid if there is none.
func (p *Plan) LoopbackFor(a netip.Addr) netip.Addr { return standIn(p.HostLoopback, a) }

// HostAddrFor is the address by which a guest with the address a sees the host's main one,
// not valid if there is none.
func (p *Plan) HostAddrFor(a netip.Addr) netip.Addr { return standIn(p.HostAddrs, a) }

// standIn is the first of a list that is of the family of a, a link-local one if a is and
// the list has one.
func standIn(list []netip.Addr, a netip.Addr) (found netip.Addr) {
	local := a.Is6() && a.IsLinkLocalUnicast()
	for _, s := range list {
		switch {
		case s.Is4() != a.Is4():
		case !found.IsValid(), local && s.IsLinkLocalUnicast() && !found.IsLinkLocalUnicast():
			found = s
		}
	}
	return found
}
