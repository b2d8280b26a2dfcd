package addressing

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Copied describes a guest beside the host: it has the host's own addresses, or others in
// their place.
type Copied struct {
	// Addresses of the guest, of either family, each with the length of its subnet. The
	// first of a family is its main one. A family without an address and without a
	// gateway is off.
	Addresses []netip.Prefix
	// Gateway and Gateway6 are the guest's routers, in its subnet or not. If one is not
	// valid, the guest gets LocalGateway or LocalGateway6 in its place, so that it has a
	// default route as soon as the host has.
	Gateway, Gateway6 netip.Addr
	// HostLoopback stand for the host's 127.0.0.1 and ::1. For a family that has none
	// here, its gateway does, unless NoMapGateway.
	HostLoopback []netip.Addr
	NoMapGateway bool
	// HostAddrs stand for the host's main address of their family, several of a family
	// if need be. One that is in HostLoopback, too, stands for the loopback.
	HostAddrs []netip.Addr
	// DNS are the addresses whose ports 53 and 853 are our resolver's, one of a family.
	DNS []netip.Addr
	// MAC is our Ethernet address; zero: CopiedMAC.
	MAC [6]byte
}

// What a guest is given where the host has nothing to copy; pasta's users know them.
func LocalAddress() netip.Prefix { return netip.MustParsePrefix("169.254.2.1/16") }
func LocalGateway() netip.Addr   { return netip.MustParseAddr("169.254.2.2") }
func LocalGateway6() netip.Addr  { return netip.MustParseAddr("fe80::1") }

// CopiedMAC is our Ethernet address where no other is asked for, the same as pasta's.
func CopiedMAC() [6]byte { return [6]byte{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55} }

// NewCopied makes the plan of a guest whose subnets lie outside.
//
// The guest's own addresses can stand for nothing else, since what it sends there never
// leaves it. And callers name addresses of both families without knowing which of them
// will be on. So HostLoopback, HostAddrs and DNS are left out where they are the guest's
// own or of a family that is off.
func NewCopied(c Copied) (Plan, error) {
	p := Plan{Outside: true, MAC: c.MAC}
	if p.MAC == [6]byte{} {
		p.MAC = CopiedMAC()
	}
	if p.MAC[0]&1 != 0 {
		return Plan{}, fmt.Errorf("our MAC address %x is for groups: choose one whose first byte is even", p.MAC)
	}
	for _, a := range c.Addresses {
		if err := p.addGuest(a); err != nil {
			return Plan{}, err
		}
	}
	p.setGateways(&c)
	if !p.IPv4() && !p.IPv6() {
		return Plan{}, errors.New("the guest has neither an IPv4 nor an IPv6 address")
	}
	for _, list := range []struct {
		name string
		from []netip.Addr
		to   *[]netip.Addr
	}{{"the host's loopback", c.HostLoopback, &p.HostLoopback}, {"the host's address", c.HostAddrs, &p.HostAddrs}, {"DNS", c.DNS, nil}} {
		for _, a := range list.from {
			if !standable(a) {
				return Plan{}, fmt.Errorf("%v cannot stand for %s: name an address of one machine", a, list.name)
			}
			if p.IsGuest(a) || a.Is4() && !p.IPv4() || a.Is6() && !p.IPv6() {
				continue
			}
			if list.to == nil {
				if err := p.setDNS(a); err != nil {
					return Plan{}, err
				}
			} else if !slices.Contains(*list.to, a) {
				*list.to = append(*list.to, a)
			}
		}
	}
	if c.NoMapGateway {
		return p, nil
	}
	for _, gateway := range [...]netip.Addr{p.Gateway, p.Gateway6} {
		given := slices.ContainsFunc(c.HostLoopback, func(a netip.Addr) bool { return a.Is4() == gateway.Is4() })
		if gateway.IsValid() && !given {
			p.HostLoopback = append(p.HostLoopback, gateway)
		}
	}
	return p, nil
}

func (p *Plan) addGuest(a netip.Prefix) error {
	ip := a.Addr()
	if !a.IsValid() || !standable(ip) || ip.Is6() && ip.IsLinkLocalUnicast() {
		return fmt.Errorf("the guest cannot have the address %v", a)
	}
	switch {
	case p.IsGuest(ip):
		return nil
	case ip.Is4() && !p.Guest.IsValid():
		p.Guest, p.Prefix = ip, a.Masked()
	case ip.Is6() && !p.Guest6.IsValid():
		// A /64 whatever the length of the address, which may be leased by itself.
		p.Guest6, p.Prefix6 = ip, netip.PrefixFrom(ip, 64).Masked()
	}
	p.Addresses = append(p.Addresses, a)
	return nil
}

func (p *Plan) setGateways(c *Copied) {
	choose := func(gateway, other netip.Addr) netip.Addr {
		if gateway.IsValid() && !p.IsGuest(gateway) {
			return gateway.WithZone("")
		}
		return other
	}
	if p.Guest.IsValid() || c.Gateway.IsValid() {
		p.Gateway = choose(c.Gateway, LocalGateway())
	}
	if p.Guest6.IsValid() || c.Gateway6.IsValid() {
		p.Gateway6, p.GatewayLinkLocal = choose(c.Gateway6, LocalGateway6()), LocalGateway6()
		if p.Gateway6.IsLinkLocalUnicast() {
			p.GatewayLinkLocal = p.Gateway6
		}
	}
}

func (p *Plan) setDNS(a netip.Addr) error {
	at := &p.DNS
	if a.Is6() {
		at = &p.DNS6
	}
	if at.IsValid() && *at != a {
		return fmt.Errorf("the DNS addresses %v and %v are of one family: name one of each", *at, a)
	}
	*at = a
	return nil
}

// standable reports whether an address may be one machine's on a link.
func standable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() &&
		(a.Is6() || a.As4()[0] != 0 && a.As4()[0] < 240)
}
