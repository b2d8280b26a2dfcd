package addressing

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// NewNetwork computes the plan of a network of several members: an IPv4 subnet of
// prefix length 8 to 29 and, when v6 is valid, an IPv6 /64. A larger subnet would
// reach into what is set aside, such as loopback; a smaller one has room for one
// member. Gateway and DNS are one address, the subnet's first (.1 and ::1, link-local
// fe80::1), as on the bridges of container engines. There is no single guest and no
// range of leases: Guest, Guest6, Addresses, DHCPStart and DHCPEnd are zero.
func NewNetwork(v4, v6 netip.Prefix) (Plan, error) {
	if err := checkSubnets(v4, 8, 29, v6); err != nil {
		return Plan{}, err
	}
	p := Plan{Prefix: v4, Gateway: v4.Addr().Next()}
	p.DNS = p.Gateway
	if v6.IsValid() {
		p.Prefix6, p.Gateway6, p.GatewayLinkLocal = v6, v6.Addr().Next(), netip.MustParseAddr("fe80::1")
		p.DNS6, p.DNSLinkLocal = p.Gateway6, p.GatewayLinkLocal
	}
	p.standAlone()
	return p, nil
}

// checkSubnets returns an error for subnets that no plan can have. The IPv6 one need
// not be valid.
func checkSubnets(v4 netip.Prefix, shortest, longest int, v6 netip.Prefix) error {
	if !v4.Addr().Is4() || v4.Bits() < shortest || v4.Bits() > longest || v4 != v4.Masked() {
		return fmt.Errorf("%v is not an IPv4 subnet with a prefix length of %d to %d", v4, shortest, longest)
	}
	if err := usable(v4); err != nil || !v6.IsValid() {
		return err
	}
	if !v6.Addr().Is6() || v6.Addr().Is4In6() || v6.Bits() != 64 || v6 != v6.Masked() {
		return fmt.Errorf("%v is not an IPv6 subnet with a prefix length of 64, such as fd00::/64", v6)
	}
	return usable(v6)
}

// Host is the n-th address of the IPv4 subnet, counted from its network address,
// which is the 0th. It is not valid if the subnet has no such host: the network and
// broadcast addresses are not hosts.
func (p *Plan) Host(n uint32) netip.Addr {
	if n == 0 || n >= p.broadcastOffset() {
		return netip.Addr{}
	}
	b := p.Prefix.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
	return netip.AddrFrom4(b)
}

// IsMember reports whether a member may have the IPv4 address: it is in the subnet,
// and not the network, broadcast, gateway or DNS address.
func (p *Plan) IsMember(a netip.Addr) bool {
	return p.Prefix.Contains(a) && p.Host(p.offset(a)).IsValid() && !p.IsOwn(a)
}

// FirstFree is the lowest address that a member may have and that is not taken, not
// valid if all are.
func (p *Plan) FirstFree(taken func(netip.Addr) bool) netip.Addr {
	for n := uint32(1); ; n++ {
		if a := p.Host(n); !a.IsValid() || p.IsMember(a) && !taken(a) {
			return a
		}
	}
}

// MemberIPv6 is the IPv6 address that goes with a member's IPv4 address: the IPv6
// subnet with the host part of a in its last 32 bits. It is not valid if there is
// no IPv6, or if a is not in the IPv4 subnet.
func (p *Plan) MemberIPv6(a netip.Addr) netip.Addr {
	if !p.IPv6() || !p.Prefix.Contains(a) {
		return netip.Addr{}
	}
	b := p.Prefix6.Addr().As16()
	binary.BigEndian.PutUint32(b[12:], p.offset(a))
	return netip.AddrFrom16(b)
}

// MemberHardwareAddr is a member's default Ethernet address: 52:56 followed by its
// IPv4 address. Ours begins with 52:55.
func MemberHardwareAddr(a netip.Addr) [6]byte {
	b := a.As4()
	return [6]byte{0x52, 0x56, b[0], b[1], b[2], b[3]}
}

// offset is the host part of an address of the IPv4 subnet.
func (p *Plan) offset(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:]) & p.broadcastOffset()
}

// broadcastOffset is the host part whose bits are all set.
func (p *Plan) broadcastOffset() uint32 { return ^uint32(0) >> p.Prefix.Bits() }
