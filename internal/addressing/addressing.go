// Package addressing computes the address plan of a guest network: which addresses
// exist on the guest's side of the TAP and what each of them is.
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
// member has an IPv4 address, and derived from it an IPv6 address with the same host
// part, and an Ethernet address.
//
// A guest that has the host's own addresses, as pasta's has (NewCopied), has its subnets
// outside: other machines in them are reached like any other. Nothing of ours has an
// address there, so the caller chooses the addresses that stand for the host and for the
// resolver, or the gateway does.
//
// A guest without any interface (NewLoopback) has only the addresses of its lo.
//
// All are values of one type, which tells addresses apart by their roles and not by how
// the plan was made: see Plan.
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

// FreeIPv6 is the first subnet that shares no address with any of taken: the default,
// fd00:0:0:1::/64 and so on. false: there is none among 256.
func FreeIPv6(taken []netip.Prefix) (free netip.Prefix, ok bool) {
	bytes := DefaultIPv6().Addr().As16()
	for i := range 256 {
		bytes[7] = byte(i)
		free = netip.PrefixFrom(netip.AddrFrom16(bytes), DefaultIPv6().Bits())
		if !slices.ContainsFunc(taken, free.Overlaps) {
			return free, true
		}
	}
	return free, false
}

// Plan names every address of one guest network that has a role. A family is off if its
// gateway is not valid, and then all its fields are zero.
//
// An address may have several roles: by default the gateway is the host's loopback, too.
type Plan struct {
	// The router, which sends errors and advertisements to the guest, and serves DHCP.
	Gateway          netip.Addr
	Gateway6         netip.Addr
	GatewayLinkLocal netip.Addr // the source of router advertisements
	MAC              [6]byte    // the Ethernet address of every frame we send

	// The forwarding resolver: these addresses as a whole, or its two ports where the
	// subnet lies outside. Not valid: there is none.
	DNS, DNS6, DNSLinkLocal netip.Addr

	HostLoopback []netip.Addr // that stand for the host's 127.0.0.1 or ::1
	HostAddrs    []netip.Addr // that stand for the host's main address of their family

	// Outside says that the guest's subnets are the host's, and other machines in them
	// are beyond the host. Otherwise only the guest and we are in them.
	Outside bool
	Prefix  netip.Prefix // the guest's IPv4 subnet
	Prefix6 netip.Prefix // the guest's IPv6 subnet, a /64; not valid: the guest has a link-local address at most

	// The guest. A network of several members has none of its own.
	Guest     netip.Addr     // the recommended (with -c: the configured) guest address, the first of several
	Guest6    netip.Addr     // likewise
	Addresses []netip.Prefix // all, the former included, each with the length of its subnet

	// The range of leases, inclusive; not valid: there is none.
	DHCPStart, DHCPEnd netip.Addr
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
	p.Addresses = []netip.Prefix{netip.PrefixFrom(p.Guest, v4.Bits())}
	if v6.IsValid() {
		p.Prefix6 = v6
		p.Gateway6 = add(v6.Addr(), offsetGateway)
		p.DNS6 = add(v6.Addr(), offsetDNS)
		p.Guest6 = add(v6.Addr(), offsetGuest)
		p.GatewayLinkLocal = netip.MustParseAddr("fe80::2")
		p.DNSLinkLocal = netip.MustParseAddr("fe80::3")
		p.Addresses = append(p.Addresses, netip.PrefixFrom(p.Guest6, v6.Bits()))
	}
	p.standAlone()
	return p, nil
}

// standAlone completes a plan whose subnets hold only the guest and us: the gateway is the
// host, and has the Ethernet address that libslirp gives it, 52:55 followed by its IPv4
// address.
func (p *Plan) standAlone() {
	p.HostLoopback = []netip.Addr{p.Gateway}
	if p.IPv6() {
		p.HostLoopback = append(p.HostLoopback, p.Gateway6, p.GatewayLinkLocal)
	}
	g := p.Gateway.As4()
	p.MAC = [6]byte{0x52, 0x55, g[0], g[1], g[2], g[3]}
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

// usable returns an error for a subnet that is set aside for something else (RFC 6890),
// so that packets with its addresses are dropped.
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
