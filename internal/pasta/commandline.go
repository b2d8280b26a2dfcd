package pasta

import (
	"net"
	"net/netip"
	"time"

	"github.com/spf13/pflag"
)

// DefaultMTU is that of the guest's interface, in bytes.
const DefaultMTU = 65520

// DefaultLogSize is the size beyond which a log file loses its oldest lines, in bytes.
const DefaultLogSize = 1 << 20

// CommandLine is a command line of pasta's. NewCommandLine makes the one without options.
type CommandLine struct {
	Target
	Life
	Link
	Addresses
	Names
	Ports
}

// Life is how the process runs, and what it reports.
type Life struct {
	Foreground bool
	Quiet      bool // warnings and errors alone
	Debug      bool
	LogFile    string
	LogSize    int           // bytes
	Stats      time.Duration // between two reports; 0: none
	Control    string        // the socket for pesto
	PIDFile    string
	RunAs      string // UID[:GID] or LOGIN[:GROUP] of real root's process
}

// Link is the guest's interface.
type Link struct {
	Interface string           // its name; empty: that of the host's, else tap0
	MTU       int              // bytes; 0: the kernel's is left
	OurMAC    net.HardwareAddr // nil: 9a:55:9a:55:9a:55
	MAC       net.HardwareAddr // nil: random
	Configure bool             // set addresses and routes, and bring it up
	NoTCP     bool
	NoUDP     bool
	NoICMP    bool
	NoDHCP    bool
	NoDHCPv6  bool
	NoNDP     bool
	NoRA      bool
	NoTAP     bool // --splice-only
}

// Family is the options for one IP version. Addresses that were not given are not valid.
type Family struct {
	Off         bool
	Address     netip.Addr
	Bits        int // of the address's subnet; 0: not said
	Gateway     netip.Addr
	Outbound    netip.Addr // source address
	OutboundIf  string     // the interface to send by
	DNSForward  netip.Addr
	DNSHost     netip.Addr
	MapGuest    netip.Addr
	MapLoopback netip.Addr
}

// Addresses are the guest's, and those that stand for the host.
type Addresses struct {
	V4, V6       Family
	Template     string // the host's interface whose addresses and routes are copied
	NoMapGateway bool   // the gateway does not stand for the host's loopback
	NoCopyRoutes bool
	NoCopyAddrs  bool
}

// Names are what the guest is told about resolvers.
type Names struct {
	DNS        []netip.Addr // empty: ours
	NoDNS      bool
	Search     []string // empty: the host's
	NoSearch   bool
	DHCPDNS    bool // hand the resolvers out, unless NoDNS
	DHCPSearch bool // and the search list, unless NoSearch
	Hostname   string
	FQDN       string
}

// Ports are the ports forwarded in from the host, and out from the guest to the host.
type Ports struct {
	// Forwards are in the order given. An option that was not given is auto, once
	// Complete has been called.
	Forwards        Table
	HostLoToGuestLo bool
	NoSplice        bool
	FreeBind        bool

	given map[Option]bool
}

// NewCommandLine returns a command line without options.
func NewCommandLine() *CommandLine {
	return &CommandLine{
		Link: Link{MTU: DefaultMTU},
		Life: Life{LogSize: DefaultLogSize},
	}
}

// AddTo declares the options, all but --help and --version.
func (o *CommandLine) AddTo(fs *pflag.FlagSet) {
	f := flags{fs}
	o.Target.addTo(f)
	o.Life.addTo(f)
	o.Link.addTo(f)
	o.Addresses.addTo(f)
	o.Names.addTo(f)
	o.Ports.addTo(f)
}

func (l *Life) addTo(f flags) {
	f.on(&l.Foreground, "foreground", "f", "stay in the foreground")
	f.on(&l.Debug, "debug", "d", "log each step")
	f.on(&l.Debug, "trace", "", "the same as --debug")
	f.on(&l.Quiet, "quiet", "q", "log warnings and errors only")
	f.ignored("stderr", "e", "accepted, and without effect: messages go there as long as the program is in the foreground")
	f.text(&l.LogFile, "log-file", "l", "log to `FILE`")
	f.number(&l.LogSize, "log-size", "", 4096, 1<<30, "let the log file grow to `BYTES`, then drop its oldest lines")
	f.seconds(&l.Stats, "stats", "log counters each `SECONDS`")
	f.text(&l.Control, "conf-path", "c", "accept pesto's requests on the socket `PATH`")
	f.text(&l.PIDFile, "pid", "P", "write the process's number to `FILE`")
	f.text(&l.RunAs, "runas", "", "as root, become `UID[:GID]` or LOGIN[:GROUP] instead of nobody")
	f.ignored("no-pidns", "", "accepted, and without effect: no PID namespace is made for the program itself")
	f.ignored("chroot-fallback", "", "accepted, and without effect: the root directory is not changed")
}

func (l *Link) addTo(f flags) {
	f.interfaceName(&l.Interface, "ns-ifname", "I", "call the guest's interface `NAME`")
	f.mtu(&l.MTU, "mtu", "m", "set and hand out the `MTU` in bytes; 0: leave the kernel's, 1500")
	f.mac(&l.OurMAC, "mac-addr", "M", "have the gateway answer from the Ethernet address `MAC`")
	f.mac(&l.MAC, "ns-mac-addr", "", "give the guest's interface the Ethernet address `MAC`")
	f.on(&l.Configure, "config-net", "", "set the interface's addresses and routes, and bring it up")
	f.on(&l.NoTCP, "no-tcp", "", "carry no TCP")
	f.on(&l.NoUDP, "no-udp", "", "carry no UDP")
	f.on(&l.NoICMP, "no-icmp", "", "carry no ping")
	f.on(&l.NoDHCP, "no-dhcp", "", "answer no DHCP")
	f.on(&l.NoDHCPv6, "no-dhcpv6", "", "answer no DHCPv6")
	f.on(&l.NoNDP, "no-ndp", "", "answer no neighbour or router solicitation")
	f.on(&l.NoRA, "no-ra", "", "send no router advertisement, as with --config-net")
	f.on(&l.NoTAP, "splice-only", "", "make no interface: forward ports between the loopbacks alone")
}

func (a *Addresses) addTo(f flags) {
	f.only(&a.V4, &a.V6, "ipv4-only", "4", "without IPv6; of this and the next the last one counts")
	f.only(&a.V6, &a.V4, "ipv6-only", "6", "without IPv4")
	f.interfaceName(&a.Template, "interface", "i", "copy addresses and routes from the host's interface `NAME`")
	f.fs.FuncP("address", "a", "give the guest the address `ADDR[/BITS]`; once for each family", a.setAddress)
	f.fs.FuncP("netmask", "n", "use the IPv4 `MASK`, as an address or in bits", a.setMask)
	f.family(a, func(x *Family) *netip.Addr { return &x.Gateway }, "gateway", "g", "route the guest by way of the gateway `ADDR`; once for each family")
	f.family(a, func(x *Family) *netip.Addr { return &x.Outbound }, "outbound", "o", "send from the host's `ADDR`; once for each family")
	f.interfaceName(&a.V4.OutboundIf, "outbound-if4", "", "send IPv4 by the host's interface `NAME`, whatever its routes say")
	f.interfaceName(&a.V6.OutboundIf, "outbound-if6", "", "the same of IPv6: `NAME`")
	f.family(a, func(x *Family) *netip.Addr { return &x.DNSForward }, "dns-forward", "", "answer DNS at `ADDR`; once for each family")
	f.family(a, func(x *Family) *netip.Addr { return &x.DNSHost }, "dns-host", "", "ask the nameserver `ADDR` instead of resolv.conf's; once for each family")
	mapLoopback := func(x *Family) *netip.Addr { return &x.MapLoopback }
	f.familyOr(a, mapLoopback, func() { a.NoMapGateway = true }, "map-host-loopback", "have `ADDR` stand for the host's loopback instead of the gateway, or none; once for each family")
	f.on(&a.NoMapGateway, "no-map-gw", "", "do not have the gateway stand for the host's loopback")
	mapGuest := func(x *Family) *netip.Addr { return &x.MapGuest }
	f.familyOr(a, mapGuest, func() {}, "map-guest-addr", "have `ADDR` stand for the host's own address, or none; once for each family")
	f.on(&a.NoCopyRoutes, "no-copy-routes", "", "do not copy the host's routes (with --config-net)")
	f.on(&a.NoCopyAddrs, "no-copy-addrs", "", "copy one address of each family only (with --config-net)")
}

func (n *Names) addTo(f flags) {
	f.fs.FuncP("dns", "D", "hand the resolver `ADDR` out, or none; repeatable", n.setDNS)
	f.fs.FuncP("search", "S", "hand the search `LIST` out, or none", n.setSearch)
	f.on(&n.DHCPDNS, "dhcp-dns", "", "hand resolvers out by DHCP, DHCPv6 and router advertisements: those of --dns, else ours, at --dns-forward or the gateway")
	f.off(&n.DHCPDNS, "no-dhcp-dns", "the default, unless --dns gives some")
	f.on(&n.DHCPSearch, "dhcp-search", "", "hand the search list out likewise")
	f.off(&n.DHCPSearch, "no-dhcp-search", "the default, unless --search gives one")
	f.hostname(&n.Hostname, "hostname", "H", "hand the host `NAME` out")
	f.hostname(&n.FQDN, "fqdn", "", "hand the full `NAME` out")
}

func (p *Ports) addTo(f flags) {
	f.ports(p, HostTCP, "carry clients of the host's TCP ports in to the guest: none, auto, all or `PORTS`; repeatable")
	f.ports(p, HostUDP, "the same of UDP: `PORTS`")
	f.ports(p, GuestTCP, "carry clients of the guest's loopback out to the host's: none, auto or `PORTS`; repeatable")
	f.ports(p, GuestUDP, "the same of UDP: `PORTS`")
	f.on(&p.HostLoToGuestLo, "host-lo-to-ns-lo", "", "lead clients of the host's loopback to the guest's, instead of its address")
	f.on(&p.NoSplice, "no-splice", "", "carry loopback clients by the interface, too")
	f.on(&p.FreeBind, "freebind", "", "listen on addresses that the host does not have, too")
}
