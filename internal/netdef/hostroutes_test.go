package netdef

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"epiphyte/internal/testnet"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestHostRoutes(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lo := testnet.OwnNetwork(t)
	ipnet := func(s string) *net.IPNet {
		ip, n, err := net.ParseCIDR(s)
		must(err)
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	address := func(l netlink.Link, s string, flags int) {
		must(netlink.AddrAdd(l, &netlink.Addr{IPNet: ipnet(s), Flags: flags | unix.IFA_F_NODAD}))
	}
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "host"}, PeerName: "peer"}))
	host, err := netlink.LinkByName("host")
	must(err)
	peer, err := netlink.LinkByName("peer")
	must(err)
	must(netlink.LinkSetUp(host))
	must(netlink.LinkSetUp(peer))
	address(lo, "192.0.2.1/32", 0) // an address of the host's that is on no link
	address(host, "198.51.100.7/24", 0)
	address(host, "2001:db8:7::1/64", 0)
	address(host, "203.0.113.9/28", unix.IFA_F_NOPREFIXROUTE) // no route says so
	route := func(dst string, table int, typ int) {
		r := &netlink.Route{Dst: ipnet(dst), Table: table, Type: typ}
		if typ == unix.RTN_UNICAST {
			r.LinkIndex = host.Attrs().Index
		}
		must(netlink.RouteAdd(r))
	}
	route("10.90.0.0/20", unix.RT_TABLE_MAIN, unix.RTN_UNICAST)
	route("10.90.16.0/24", 1234, unix.RTN_UNICAST) // as VPNs do
	route("10.90.17.0/24", unix.RT_TABLE_MAIN, unix.RTN_BLACKHOLE)
	route("fd90:0:0:3::/64", 1234, unix.RTN_UNICAST)
	for _, all := range []string{"0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "::/1", "8000::/1"} {
		route(all, unix.RT_TABLE_MAIN, unix.RTN_UNICAST)
	}
	got, err := HostRoutes()
	must(err)
	for _, want := range prefixes(`192.0.2.1/32 198.51.100.0/24 2001:db8:7::/64 203.0.113.0/28
		10.90.0.0/20 10.90.16.0/24 10.90.17.0/24 fd90:0:0:3::/64`) {
		if !slices.Contains(got, want) {
			t.Errorf("%v is not listed", want)
		}
	}
	for _, p := range got {
		if p.Overlaps(netip.MustParsePrefix("127.0.0.0/8")) || p.Contains(netip.IPv6Loopback()) || p.Overlaps(netip.MustParsePrefix("10.91.0.0/16")) {
			t.Errorf("%v is listed", p)
		}
	}
	if !slices.IsSortedFunc(got, netip.Prefix.Compare) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("neither sorted nor each once: %v", got)
	}
	d, err := Choose(Definition{Name: "web"}, got)
	must(err)
	if d.Subnet != pool4(18) || d.Subnet6 != pool6(18) {
		t.Errorf("chose %v and %v among them, want the 18th", d.Subnet, d.Subnet6)
	}
}
