// Package addressing computes the address plan of a guest network: which addresses
// exist on the guest's side of the TAP and what lives at each of them.
//
// # Theory of operation
//
// A plan is a value: it is computed once from the command line, never changes,
// and is handed to everything that must know an address. Nothing else in the
// program adds a constant to a network address.
//
// The offsets are those of the slirp4netns contract, because callers compute
// them too (podman writes network+100 into /etc/hosts, RootlessKit configures
// network+100 and routes through network+2 on its own): gateway .2, DNS .3,
// DHCP range .15 to .30, recommended guest .100. The IPv6 side is a /64 with
// the gateway at ::2 and DNS at ::3, both also reachable by their link-local
// twins. The contract has no guest address there; ours is at the same offset, ::64.
//
// A network of several members is no part of that contract (NewNetwork): its gateway
// and its DNS server are one address, the first, and all others are its members'. A
// member has an IPv4 address, and what follows from it: an IPv6 address with the same
// host part, and an Ethernet address.
//
// The package opens nothing and imports nothing of the data path.
package addressing

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Offsets inside the IPv4 subnet, from slirp4netns(1), "DESCRIPTION".
const (
	offsetGateway   = 2
	offsetDNS       = 3
	offsetDHCPStart = 15
	offsetDHCPEnd   = 30
	offsetGuest     = 100
)

// DefaultIPv4 is the subnet used when none is asked for: 10.0.2.0/24.
func DefaultIPv4() netip.Prefix { return netip.MustParsePrefix("10.0.2.0/24") }

// DefaultIPv6 is the subnet used when IPv6 is enabled: fd00::/64.
func DefaultIPv6() netip.Prefix { return netip.MustParsePrefix("fd00::/64") }

// Plan names every address of one guest network that is not outside.
// The IPv6 fields are zero when IPv6 is off, and those of a single guest when there
// are several members.
type Plan struct {
	Prefix    netip.Prefix // the guest's IPv4 subnet
	Gateway   netip.Addr   // stands for the host; answers ARP and echo
	DNS       netip.Addr   // the forwarding resolver
	Guest     netip.Addr   // the recommended (with -c: the configured) guest address
	DHCPStart netip.Addr   // first lease
	DHCPEnd   netip.Addr   // last lease, inclusive

	Prefix6          netip.Prefix // the guest's IPv6 subnet, a /64
	Gateway6         netip.Addr
	DNS6             netip.Addr
	Guest6           netip.Addr // with -c the configured guest address; otherwise unused
	GatewayLinkLocal netip.Addr // fe80::2, the source of router advertisements
	DNSLinkLocal     netip.Addr // fe80::3
}

// New computes the plan of an IPv4 subnet (prefix length 1 to 25) and, when v6
// is valid, of an IPv6 /64.
func New(v4, v6 netip.Prefix) (Plan, error) {
	if err := checkSubnets(v4, 1, 25, v6); err != nil {
		return Plan{}, err
	}
	p := Plan{
		Prefix:    v4,
		Gateway:   add(v4.Addr(), offsetGateway),
		DNS:       add(v4.Addr(), offsetDNS),
		Guest:     add(v4.Addr(), offsetGuest),
		DHCPStart: add(v4.Addr(), offsetDHCPStart),
		DHCPEnd:   add(v4.Addr(), offsetDHCPEnd),
	}
	if !v6.IsValid() {
		return p, nil
	}
	p.Prefix6 = v6
	p.Gateway6 = add(v6.Addr(), offsetGateway)
	p.DNS6 = add(v6.Addr(), offsetDNS)
	p.Guest6 = add(v6.Addr(), offsetGuest)
	p.GatewayLinkLocal = netip.MustParseAddr("fe80::2")
	p.DNSLinkLocal = netip.MustParseAddr("fe80::3")
	return p, nil
}

// IPv6 reports whether the plan has an IPv6 side.
func (p *Plan) IPv6() bool { return p.Prefix6.IsValid() }

// IsGateway reports whether a is an address of the gateway, of either family.
func (p *Plan) IsGateway(a netip.Addr) bool {
	return a == p.Gateway || p.IPv6() && (a == p.Gateway6 || a == p.GatewayLinkLocal)
}

// IsDNS reports whether a is an address of the forwarding resolver.
func (p *Plan) IsDNS(a netip.Addr) bool {
	return a == p.DNS || p.IPv6() && (a == p.DNS6 || a == p.DNSLinkLocal)
}

// IsOwn reports whether a is one of our own addresses: those that answer ARP,
// neighbour solicitations and echo requests by themselves.
func (p *Plan) IsOwn(a netip.Addr) bool { return p.IsGateway(a) || p.IsDNS(a) }

// Own lists our own addresses, each once.
func (p *Plan) Own() []netip.Addr {
	own := []netip.Addr{p.Gateway, p.DNS}
	if p.IPv6() {
		own = append(own, p.Gateway6, p.DNS6, p.GatewayLinkLocal, p.DNSLinkLocal)
	}
	return slices.Compact(own)
}

// HardwareAddr is the Ethernet address of every frame we send: 52:55 followed
// by the gateway's IPv4 address, as libslirp has it.
func (p *Plan) HardwareAddr() [6]byte {
	g := p.Gateway.As4()
	return [6]byte{0x52, 0x55, g[0], g[1], g[2], g[3]}
}

// ParseCIDR parses the argument of --cidr. The checks, their order and their
// messages are the contract's: a caller's test compares them.
func ParseCIDR(s string) (netip.Prefix, error) {
	network, length, ok := strings.Cut(s, "/")
	octets := strings.Split(network, ".")
	if !ok || len(octets) != 4 || !digits(length, 2) || slices.ContainsFunc(octets, func(o string) bool { return !digits(o, 3) }) {
		return netip.Prefix{}, fmt.Errorf("invalid CIDR: %s", s)
	}
	addr, err := netip.ParseAddr(network)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("invalid network address: %s", network)
	}
	bits, err := strconv.Atoi(length)
	if err != nil || bits < 1 || bits > 25 {
		return netip.Prefix{}, errors.New("prefix length needs to be 1-25")
	}
	p := netip.PrefixFrom(addr, bits)
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("CIDR needs to be a network address like %v, not like %v", p.Masked(), p)
	}
	return p, usable(p)
}

// usable is the error of a subnet that is set aside for something else
// (RFC 6890), so that packets with its addresses are dropped.
func usable(p netip.Prefix) error {
	a, kind, instead := p.Addr(), "", DefaultIPv4()
	if a.Is6() {
		instead = DefaultIPv6()
	}
	switch {
	case a.IsMulticast():
		kind = "multicast"
	case a.IsLoopback():
		kind = "loopback"
	case a.Is4() && a.As4()[0] == 0:
		kind = "addresses of hosts that do not know their own"
	case a.Is4() && a.As4()[0] >= 240:
		kind = "reserved (class E)"
	case a.Is6() && a.IsLinkLocalUnicast():
		kind = "link-local"
	case a.Is6() && a.IsUnspecified():
		kind = "loopback and addresses that stand for IPv4"
	default:
		return nil
	}
	return fmt.Errorf("the subnet %v is %s, which no guest can have: choose a private one, such as %v", p, kind, instead)
}

// digits reports whether s is one to most decimal digits.
func digits(s string, most int) bool {
	return s != "" && len(s) <= most && strings.Trim(s, "0123456789") == ""
}

// add returns a+n; n is small enough never to leave the low two bytes, which a
// masked subnet of at most 25 bits (or a /64) leaves free.
func add(a netip.Addr, n byte) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] += n
	sum, _ := netip.AddrFromSlice(b)
	return sum
}
