package cli

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// banner is what goes to stdout at start. No caller parses it, but they show it when a start
// fails, and people read it (contract, "stdout/stderr at start").
func (a *Attach) banner() string {
	var b strings.Builder
	p := &a.Plan
	line := func(name string, v any) { fmt.Fprintf(&b, "* %-17s%v\n", name+":", v) }
	b.WriteString("Starting slirp\n")
	line("MTU", a.MTU)
	line("Network", p.Prefix.Addr())
	line("Netmask", netmask(p.Prefix))
	line("Gateway", p.Gateway)
	line("DNS", p.DNS)
	line("DHCP begin", p.DHCPStart)
	line("DHCP end", p.DHCPEnd)
	line("Recommended IP", p.Guest)
	if a.APISocket != "" {
		line("API Socket", a.APISocket)
	}
	if v4 := a.Source.IPv4(); v4 != "" {
		line("Outbound IPv4", v4)
	}
	if v6 := a.Source.IPv6(); v6 != "" {
		line("Outbound IPv6", v6)
	}
	if a.MAC != nil {
		line("MAC address", a.MAC)
	}
	if !a.DisableHostLoopback {
		fmt.Fprintf(&b, "WARNING: 127.0.0.1:* on the host is accessible as %v (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)\n", p.Gateway)
	}
	return b.String()
}

// netmask writes an IPv4 prefix length as an address.
func netmask(p netip.Prefix) net.IP { return net.IP(net.CIDRMask(p.Bits(), 32)) }
