package addressing

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func network(t *testing.T, v4, v6 string) *Plan {
	t.Helper()
	var p6 netip.Prefix
	if v6 != "" {
		p6 = netip.MustParsePrefix(v6)
	}
	p, err := NewNetwork(netip.MustParsePrefix(v4), p6)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

func TestNewNetwork(t *testing.T) {
	a, pre := netip.MustParseAddr, netip.MustParsePrefix
	want := &Plan{
		Prefix: pre("10.90.3.0/24"), Gateway: a("10.90.3.1"), DNS: a("10.90.3.1"),
		Prefix6: pre("fd90:0:0:3::/64"), Gateway6: a("fd90:0:0:3::1"), DNS6: a("fd90:0:0:3::1"),
		GatewayLinkLocal: a("fe80::1"), DNSLinkLocal: a("fe80::1"),
		HostLoopback: []netip.Addr{a("10.90.3.1"), a("fd90:0:0:3::1"), a("fe80::1")},
		MAC:          [6]byte{0x52, 0x55, 10, 90, 3, 1},
	}
	p := network(t, "10.90.3.0/24", "fd90:0:0:3::/64")
	if diff := cmp.Diff(want, p, compareAddrs()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	own := []netip.Addr{a("10.90.3.1"), a("fd90:0:0:3::1"), a("fe80::1")}
	if diff := cmp.Diff(own, p.Own(), compareAddrs()); diff != "" {
		t.Errorf("own addresses (-want +got)\n%s", diff)
	}
	for _, o := range own {
		if !p.IsGateway(o) || !p.IsDNS(o) {
			t.Errorf("%v: gateway %v, DNS %v, want both", o, p.IsGateway(o), p.IsDNS(o))
		}
	}
	if p.IsOwn(netip.Addr{}) {
		t.Error("the address of no guest is ours")
	}
	if got := network(t, "10.90.3.0/24", ""); got.IPv6() || got.IsOwn(a("fe80::1")) {
		t.Errorf("without IPv6: %+v", got)
	}
}

func TestNewNetworkRefuses(t *testing.T) {
	for _, tt := range []struct{ v4, v6 string }{
		{"10.90.0.0/7", "fd90::/64"},
		{"10.90.0.0/30", "fd90::/64"},
		{"10.90.0.1/24", "fd90::/64"},
		{"127.0.0.0/8", "fd90::/64"},
		{"fd90::/64", "fd90::/64"},
		{"10.90.0.0/24", "10.90.0.0/24"},
		{"10.90.0.0/24", "fd90::/48"},
		{"10.90.0.0/24", "fe80::/64"},
	} {
		if got, err := NewNetwork(netip.MustParsePrefix(tt.v4), netip.MustParsePrefix(tt.v6)); err == nil {
			t.Errorf("NewNetwork(%s, %s) = %+v, want an error", tt.v4, tt.v6, got)
		}
	}
	if _, err := NewNetwork(netip.Prefix{}, netip.Prefix{}); err == nil {
		t.Error("a network without a subnet")
	}
}

func TestHost(t *testing.T) {
	for _, tt := range []struct {
		subnet string
		n      uint32
		want   string
	}{
		{"10.90.3.0/24", 0, ""},
		{"10.90.3.0/24", 1, "10.90.3.1"},
		{"10.90.3.0/24", 254, "10.90.3.254"},
		{"10.90.3.0/24", 255, ""},
		{"10.90.3.0/24", 256, ""},
		{"10.90.3.0/24", 1<<32 - 1, ""},
		{"10.90.3.8/29", 6, "10.90.3.14"},
		{"10.90.3.8/29", 7, ""},
		{"10.0.0.0/8", 256, "10.0.1.0"},
		{"10.0.0.0/8", 1<<24 - 2, "10.255.255.254"},
		{"10.0.0.0/8", 1<<24 - 1, ""},
	} {
		got := network(t, tt.subnet, "").Host(tt.n)
		if got.IsValid() != (tt.want != "") || got.IsValid() && got.String() != tt.want {
			t.Errorf("host %d of %s is %v, want %q", tt.n, tt.subnet, got, tt.want)
		}
	}
}

func TestIsMember(t *testing.T) {
	p := network(t, "10.90.0.0/16", "fd90::/64")
	for addr, want := range map[string]bool{
		"10.90.0.0": false, "10.90.0.1": false, "10.90.0.2": true, "10.90.0.255": true, "10.90.1.0": true,
		"10.90.255.254": true, "10.90.255.255": false, "10.89.255.255": false, "10.91.0.0": false,
		"fd90::2": false, "::ffff:10.90.0.2": false,
	} {
		if got := p.IsMember(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if p.IsMember(netip.Addr{}) {
		t.Error("no address at all is a member's")
	}
}

// Members have the addresses from the second on, each one, and no more.
func TestFirstFree(t *testing.T) {
	p := network(t, "10.90.3.8/29", "")
	taken := map[netip.Addr]bool{}
	var got []string
	for a := p.FirstFree(func(a netip.Addr) bool { return taken[a] }); a.IsValid(); {
		got = append(got, a.String())
		taken[a] = true
		a = p.FirstFree(func(a netip.Addr) bool { return taken[a] })
	}
	if diff := cmp.Diff([]string{"10.90.3.10", "10.90.3.11", "10.90.3.12", "10.90.3.13", "10.90.3.14"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	delete(taken, netip.MustParseAddr("10.90.3.12"))
	if a := p.FirstFree(func(a netip.Addr) bool { return taken[a] }); a.String() != "10.90.3.12" {
		t.Errorf("first free is %v, want the one that has left", a)
	}
}

func TestMemberIPv6(t *testing.T) {
	for _, tt := range []struct{ v4, v6, addr, want string }{
		{"10.90.3.0/24", "fd90:0:0:3::/64", "10.90.3.5", "fd90:0:0:3::5"},
		{"10.90.3.0/24", "fd90:0:0:3::/64", "10.90.3.254", "fd90:0:0:3::fe"},
		{"10.90.0.0/16", "fd90::/64", "10.90.3.5", "fd90::305"},
		{"10.0.0.0/8", "fd90::/64", "10.90.3.5", "fd90::5a:305"},
		{"10.90.3.0/24", "fd90::/64", "10.90.4.5", ""},
		{"10.90.3.0/24", "", "10.90.3.5", ""},
	} {
		got := network(t, tt.v4, tt.v6).MemberIPv6(netip.MustParseAddr(tt.addr))
		if got.IsValid() != (tt.want != "") || got.IsValid() && got.String() != tt.want {
			t.Errorf("%s in %s and %s: %v, want %q", tt.addr, tt.v4, tt.v6, got, tt.want)
		}
	}
}

func TestMemberHardwareAddr(t *testing.T) {
	if got := MemberHardwareAddr(netip.MustParseAddr("10.90.3.5")); got != [6]byte{0x52, 0x56, 10, 90, 3, 5} {
		t.Errorf("% x", got)
	}
}
