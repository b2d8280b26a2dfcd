package harness

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the test network, from the ranges reserved for documentation
// (RFC 5737, RFC 3849).
const (
	HostIPv4   = "192.0.2.1"
	HostIPv6   = "2001:db8:1::1"
	RouterIPv4 = "192.0.2.254" // what a traceroute shows between gateway and Net
	RouterIPv6 = "2001:db8:1::fe"

	NetIPv4 = "198.51.100.1" // the server that most tests talk to
	NetIPv6 = "2001:db8:2::1"
	// Further addresses of the internet: .2 to .9 and ::2 to ::9.
	OtherIPv4 = "198.51.100.2"
	OtherIPv6 = "2001:db8:2::2"

	// ResolverIPv4 and ResolverIPv6 are the nameservers of the host's resolv.conf.
	ResolverIPv4 = "198.51.100.53"
	ResolverIPv6 = "2001:db8:2::53"

	SilentIPv4 = "203.0.113.10" // swallows everything
	SilentIPv6 = "2001:db8:3::10"
	// HostUnreachable: nobody on the last link has the address, so after 100 ms
	// the router answers with ICMP host (IPv6: address) unreachable, which the
	// kernel reports as EHOSTUNREACH.
	HostUnreachableIPv4 = "198.51.100.20"
	HostUnreachableIPv6 = "2001:db8:2::20"
	// NetUnreachable: the router has no route, which is ENETUNREACH.
	NetUnreachableIPv4 = "203.0.113.130"
	NetUnreachableIPv6 = "2001:db8:4::1"
)

// Internet is what lies behind the host: a router and a network.
type Internet struct {
	Router *NetNS
	Net    *NetNS // the servers' side
}

func newInternet(host *NetNS) (*Internet, error) {
	i := &Internet{}
	var err error
	if i.Router, err = newNS(); err != nil {
		return nil, err
	}
	if i.Net, err = newNS(); err != nil {
		i.Router.Close()
		return nil, err
	}
	if err := i.connect(host); err != nil {
		i.Close()
		return nil, err
	}
	return i, nil
}

// Close lets go of both namespaces; they vanish with their last socket.
func (i *Internet) Close() error {
	i.Router.Close()
	return i.Net.Close()
}

func (i *Internet) connect(host *NetNS) error {
	for _, ns := range []*NetNS{host, i.Router, i.Net} {
		if err := ns.prepare(); err != nil {
			return err
		}
	}
	if err := host.Link("up0", i.Router, "down0"); err != nil {
		return err
	}
	if err := i.Router.Link("up0", i.Net, "down0"); err != nil {
		return err
	}
	if err := host.Do(func() error {
		return steps(
			address("up0", HostIPv4+"/24", HostIPv6+"/64"),
			route("0.0.0.0/0", RouterIPv4, 0), route("::/0", RouterIPv6, 0))
	}); err != nil {
		return err
	}
	if err := i.Router.Do(func() error {
		return steps(
			address("down0", RouterIPv4+"/24", RouterIPv6+"/64"),
			address("up0", "198.51.100.254/24", "2001:db8:2::fe/64"),
			sysctl("net/ipv4/ip_forward", "1"), sysctl("net/ipv6/conf/all/forwarding", "1"),
			sysctl("net/ipv4/neigh/up0/mcast_solicit", "1"), sysctl("net/ipv4/neigh/up0/retrans_time_ms", "100"),
			sysctl("net/ipv6/neigh/up0/mcast_solicit", "1"), sysctl("net/ipv6/neigh/up0/retrans_time_ms", "100"),
			route(SilentIPv4+"/32", "", unix.RTN_BLACKHOLE), route(SilentIPv6+"/128", "", unix.RTN_BLACKHOLE))
	}); err != nil {
		return err
	}
	return i.Net.Do(func() error {
		addrs := []string{ResolverIPv4 + "/24", ResolverIPv6 + "/64"}
		for n := 1; n <= 9; n++ {
			addrs = append(addrs, fmt.Sprintf("198.51.100.%d/24", n), fmt.Sprintf("2001:db8:2::%d/64", n))
		}
		return steps(address("down0", addrs...),
			route("0.0.0.0/0", "198.51.100.254", 0), route("::/0", "2001:db8:2::fe", 0))
	})
}

// prepare makes a namespace of ours alike on every machine: loopback up, no
// duplicate address detection, one congestion control, and big UDP buffers
// where the kernel lets a namespace have them.
func (n *NetNS) prepare() error {
	return n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		return steps(
			netlink.LinkSetUp(lo),
			sysctl("net/ipv6/conf/default/accept_dad", "0"),
			sysctl("net/ipv4/tcp_congestion_control", "reno"),
			// Errors are what is tested: none may be held back. (A limit of zero
			// would take its tokens from the separate limiter for "no route",
			// whose burst of 5 is not ours to change.)
			sysctl("net/ipv4/icmp_ratemask", "0"), sysctl("net/ipv6/icmp/ratelimit", "0"),
			// Only our own gid is mapped; a wider range is refused.
			sysctl("net/ipv4/ping_group_range", fmt.Sprintf("%d %d", runnerID, runnerID)))
	})
}

// Link joins two namespaces by a veth pair, both ends up.
func (n *NetNS) Link(name string, peer *NetNS, peerName string) error {
	err := n.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: peerName, PeerNamespace: netlink.NsFd(int(peer.f.Fd()))}
		veth.Name = name
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make veth %s: %w", name, err)
		}
		return linkUp(name)
	})
	if err != nil {
		return err
	}
	return peer.Do(func() error { return linkUp(peerName) })
}

func linkUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	return netlink.LinkSetUp(l)
}

func address(link string, cidrs ...string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	for _, c := range cidrs {
		a, err := netlink.ParseAddr(c)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add address %s to %s: %w", c, link, err)
		}
	}
	return nil
}

// route adds a route through a gateway, or one of a special type.
func route(dst, via string, typ int) error {
	p := netip.MustParsePrefix(dst)
	r := &netlink.Route{
		Dst:  &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Type: typ,
	}
	if via != "" {
		r.Gw = net.ParseIP(via)
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("add route to %s: %w", dst, err)
	}
	return nil
}

func sysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// steps returns the first failure of a list that has been carried out in order.
func steps(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
