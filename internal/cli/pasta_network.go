package cli

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"

	"epiphyte/internal/addressing"
	"epiphyte/internal/forwards"
	"epiphyte/internal/guest"
	"epiphyte/internal/hostnet"
	"epiphyte/internal/namespace"
	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
	"epiphyte/tap"
)

// kernelMTU is the kernel's default MTU of an interface, in bytes.
const kernelMTU = 1500

// standing describes a guest that stands beside the host, with addresses and routes like the
// host's.
type standing struct {
	line   *pasta.CommandLine
	host   *hostnet.Watcher // nil: the guest has no interface
	name   string           // of the guest's interface
	routes []hostnet.Route
}

// copyHost reads the host's network and computes what the guest gets of it: nothing if it has
// no interface. The caller closes Standing.
func (p *Pasta) copyHost() (err error) {
	s := &standing{line: p.Line, name: p.Line.Interface}
	if p.Line.NoTAP {
		p.Plan, p.Standing = addressing.NewLoopback(!p.Line.V4.Off, !p.Line.V6.Off), s
		return nil
	}
	if s.host, err = hostnet.Open(hostnet.Config{Interface: p.Line.Template}); err != nil {
		return err
	}
	if p.Plan, err = s.plan(); err != nil {
		s.close()
		return err
	}
	s.name = cmp.Or(s.name, runTAP)
	p.Standing = s
	p.Source.SetOwn(s.host.Has)
	return nil
}

func (s *standing) close() {
	if s.host != nil {
		s.host.Close()
	}
}

// plan computes the addresses, and notes the name and the routes of the interface.
func (s *standing) plan() (addressing.Plan, error) {
	l := s.line
	c := addressing.Copied{NoMapGateway: l.NoMapGateway}
	for _, v6 := range [...]bool{false, true} {
		x := l.Family(v6)
		if x.Off {
			continue
		}
		t, ok, err := s.host.Network().Template(l.Template, v6)
		if err != nil {
			return addressing.Plan{}, fmt.Errorf("%w: ip link lists those that the host has", err)
		}
		if ok && s.name == "" {
			s.name = t.Link.Name
		}
		c.Addresses = append(c.Addresses, s.addresses(x, t.Addresses, v6)...)
		gateway := cmp.Or(x.Gateway, t.Gateway, localGateway(v6))
		if v6 {
			c.Gateway6 = gateway
		} else {
			c.Gateway = gateway
		}
		if !x.Gateway.IsValid() && !l.NoCopyRoutes {
			s.routes = append(s.routes, t.Routes...)
		}
		resolver := x.DNSForward
		if l.DHCPDNS && !l.NoDNS && len(l.DNS) == 0 {
			resolver = cmp.Or(resolver, gateway) // DHCP needs one to hand out
		}
		for _, stand := range []struct {
			addr netip.Addr
			to   *[]netip.Addr
		}{{x.MapLoopback, &c.HostLoopback}, {x.MapGuest, &c.HostAddrs}, {resolver, &c.DNS}} {
			if stand.addr.IsValid() {
				*stand.to = append(*stand.to, stand.addr)
			}
		}
	}
	if l.OurMAC != nil {
		c.MAC = [6]byte(l.OurMAC)
	}
	return addressing.NewCopied(c)
}

func localGateway(v6 bool) netip.Addr {
	if v6 {
		return addressing.LocalGateway6()
	}
	return addressing.LocalGateway()
}

// addresses returns the guest's of one family, given those of the template interface.
func (s *standing) addresses(x *pasta.Family, template []netip.Prefix, v6 bool) []netip.Prefix {
	switch {
	case x.Address.IsValid():
		return []netip.Prefix{netip.PrefixFrom(x.Address, s.bits(x, template, v6))}
	case len(template) == 0 && v6:
		return nil
	case len(template) == 0:
		return []netip.Prefix{addressing.LocalAddress()}
	case s.line.NoCopyAddrs:
		template = template[:1]
	}
	list := make([]netip.Prefix, len(template))
	for i, a := range template {
		list[i] = netip.PrefixFrom(a.Addr(), cmp.Or(x.Bits, a.Bits()))
	}
	return list
}

// bits is the prefix length of an address that was given: 64 for IPv6; for IPv4 that of the
// host's address in the same subnet, or else that of its class.
func (s *standing) bits(x *pasta.Family, template []netip.Prefix, v6 bool) int {
	switch {
	case x.Bits != 0:
		return x.Bits
	case v6:
		return 64
	}
	for _, a := range template {
		if a.Contains(x.Address) {
			return a.Bits()
		}
	}
	ones, _ := net.IP(x.Address.AsSlice()).DefaultMask().Size()
	return cmp.Or(ones, 32)
}

// network is the guest's side of the device.
func (s *standing) network(plan *addressing.Plan, mac net.HardwareAddr) *tap.Network {
	n := &tap.Network{Gateway: plan.Gateway, Gateway6: plan.Gateway6, Routes: s.routes, MTU: s.line.MTU, MAC: mac}
	for _, a := range plan.Addresses {
		switch a.Addr() {
		case plan.Guest:
			n.Address = a
		case plan.Guest6:
			n.Address6 = a
		default:
			n.More = append(n.More, a)
		}
	}
	return n
}

// configure sets what else the guest's network does and does not do.
func (s *standing) configure(cfg *guest.Config) {
	l := s.line
	if s.host != nil {
		cfg.Host = s.host
	}
	// A guest that was given its routes must not learn others from advertisements.
	cfg.DisableAdvertisements, cfg.DisableNDP = l.NoRA || l.NoTAP || l.Configure, l.NoNDP
	r := &cfg.Rules
	r.DisableTCP, r.DisableUDP, r.DisableICMP = l.NoTCP, l.NoUDP, l.NoICMP
	r.DisableDHCP, r.DisableDHCP6 = l.NoDHCP, l.NoDHCPv6
	for _, x := range [...]*pasta.Family{&l.V4, &l.V6} {
		if x.DNSHost.IsValid() && !x.Off {
			cfg.Nameservers = append(cfg.Nameservers, x.DNSHost)
		}
	}
	cfg.Names = guest.Names{Hostname: l.Hostname, FQDN: l.FQDN}
	if l.DHCPSearch && !l.NoSearch {
		if cfg.Names.Search = l.Search; len(l.Search) == 0 {
			cfg.Names.Search = namespace.HostSearch(cfg.ResolvConf)
		}
	}
	if l.DHCPDNS && !l.NoDNS {
		if cfg.Names.Resolvers = l.DNS; len(l.DNS) == 0 {
			cfg.Names.Resolvers = []netip.Addr{r.Plan.DNS, r.Plan.DNS6}
		}
	}
}

// setOutbound sets the source address and device of the host's sockets.
func (p *Pasta) setOutbound() error {
	for _, f := range [...]struct {
		option  string
		family  *pasta.Family
		address func(string) error
		device  func(string) error
	}{{"--outbound-if4", &p.Line.V4, p.Source.SetIPv4, p.Source.SetDevice4}, {"--outbound-if6", &p.Line.V6, p.Source.SetIPv6, p.Source.SetDevice6}} {
		if from := f.family.Outbound; from.IsValid() {
			if err := f.address(from.String()); err != nil {
				return fmt.Errorf("--outbound: %w", err)
			}
		}
		if by := f.family.OutboundIf; by != "" {
			if err := f.device(by); err != nil {
				return fmt.Errorf("%s: %w", f.option, err)
			}
		}
	}
	return nil
}

// setPorts translates the forwarded ports.
func (p *Pasta) setPorts() {
	l := p.Line
	p.Forwards, p.Freebind = &l.Forwards, l.FreeBind
	publish, expose := forwards.Rules(l.Forwards.Effective(), l.FreeBind)
	p.Publish, p.Expose = append(p.Publish, publish...), append(p.Expose, expose...)
	p.ConfSocket, p.LivePorts = l.Control, l.Control != ""
	p.Splice, p.LoopbackToLoopback = !l.NoSplice, l.HostLoToGuestLo
	switch {
	case l.NoSplice:
		p.PublishMode = portfwd.StackOnly
	case l.NoTAP:
		p.PublishMode, p.LoopbackToLoopback = portfwd.DirectOnly, false // there is no other way
		p.DisableDNS = true
	}
}
