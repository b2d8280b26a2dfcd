package addressing

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func compareAddrs() cmp.Option {
	return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
}

// The messages are the contract's: callers' tests compare them.
func TestParseCIDR(t *testing.T) {
	const (
		length = "prefix length needs to be 1-25"
		shape  = "invalid CIDR: "
		addr   = "invalid network address: "
	)
	for _, tt := range []struct{ in, want, err string }{
		{"10.0.2.0/24", "10.0.2.0/24", ""},
		{"10.0.135.128/25", "10.0.135.128/25", ""},
		{"10.41.0.0/16", "10.41.0.0/16", ""},
		{"192.168.0.0/24", "192.168.0.0/24", ""},
		{"128.0.0.0/1", "128.0.0.0/1", ""},
		{"10.0.2.0/08", "", "CIDR needs to be a network address like 10.0.0.0/8, not like 10.0.2.0/8"},
		{"10.0.0.0/08", "10.0.0.0/8", ""},

		{"", "", shape},
		{"10.0.2.0", "", shape + "10.0.2.0"},
		{"10.0.2.0/", "", shape + "10.0.2.0/"},
		{"/24", "", shape + "/24"},
		{"10.0.2/24", "", shape + "10.0.2/24"},
		{"10.0.2.0.0/24", "", shape + "10.0.2.0.0/24"},
		{"10.0.2.0/024", "", shape + "10.0.2.0/024"},
		{"10.0.2.0/-1", "", shape + "10.0.2.0/-1"},
		{"10.0.2.0/2x", "", shape + "10.0.2.0/2x"},
		{"10.0.2.0/24 ", "", shape + "10.0.2.0/24 "},
		{" 10.0.2.0/24", "", shape + " 10.0.2.0/24"},
		{"10.0.2.0/24\n", "", shape + "10.0.2.0/24\n"},
		{"1000.0.2.0/24", "", shape + "1000.0.2.0/24"},
		{"10..2.0/24", "", shape + "10..2.0/24"},
		{".../24", "", shape + ".../24"},
		{"10.0.2./24", "", shape + "10.0.2./24"},
		{"10.0.x.0/24", "", shape + "10.0.x.0/24"},
		{"fd00::/64", "", shape + "fd00::/64"},
		{"::ffff:10.0.2.0/24", "", shape + "::ffff:10.0.2.0/24"},

		{"256.0.0.0/24", "", addr + "256.0.0.0"},
		{"010.0.2.0/24", "", addr + "010.0.2.0"}, // as inet_pton(3)
		{"10.0.2.999/24", "", addr + "10.0.2.999"},
		// The address is looked at before the length.
		{"256.0.0.0/26", "", addr + "256.0.0.0"},

		{"10.0.2.0/0", "", length},
		{"10.0.2.0/00", "", length},
		{"10.0.2.0/26", "", length},
		{"10.0.2.0/32", "", length},
		{"10.0.2.0/99", "", length},
		// The length is looked at before the host bits.
		{"10.0.2.100/26", "", length},

		{"0.0.0.0/1", "", "the subnet 0.0.0.0/1 is addresses of hosts that do not know their own, which no guest can have: choose a private one, such as 10.0.2.0/24"},
		{"127.0.0.0/8", "", "the subnet 127.0.0.0/8 is loopback, which no guest can have: choose a private one, such as 10.0.2.0/24"},
		{"224.1.0.0/16", "", "the subnet 224.1.0.0/16 is multicast, which no guest can have: choose a private one, such as 10.0.2.0/24"},
		{"240.0.0.0/4", "", "the subnet 240.0.0.0/4 is reserved (class E), which no guest can have: choose a private one, such as 10.0.2.0/24"},

		{"10.0.2.100/24", "", "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24"},
		{"10.0.2.128/24", "", "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.128/24"},
		{"10.0.135.129/25", "", "CIDR needs to be a network address like 10.0.135.128/25, not like 10.0.135.129/25"},
	} {
		got, err := ParseCIDR(tt.in)
		switch {
		case tt.want != "" && (err != nil || got.String() != tt.want):
			t.Errorf("ParseCIDR(%q) = %v, %v; want %s", tt.in, got, err, tt.want)
		case tt.want == "" && (err == nil || err.Error() != tt.err):
			t.Errorf("ParseCIDR(%q) = %v, %v; want the error %q", tt.in, got, err, tt.err)
		}
	}
}

// What ParseCIDR takes, New takes.
func FuzzParseCIDR(f *testing.F) {
	for _, s := range []string{"10.0.2.0/24", "10.0.2.100/24", "10.0.135.128/25", "0.0.0.0/1", "255.255.255.128/25", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseCIDR(s)
		if err != nil {
			return
		}
		pl, err := New(p, netip.Prefix{})
		if err != nil {
			t.Fatalf("ParseCIDR(%q) = %v, which New refuses: %v", s, p, err)
		}
		for _, a := range []netip.Addr{pl.Gateway, pl.DNS, pl.Guest, pl.DHCPStart, pl.DHCPEnd} {
			if !p.Contains(a) {
				t.Errorf("%v is not in %v", a, p)
			}
		}
	})
}

func TestNew(t *testing.T) {
	a, pre := netip.MustParseAddr, netip.MustParsePrefix
	for _, tt := range []struct {
		v4, v6 string
		want   Plan
	}{
		{"10.0.2.0/24", "", Plan{
			Prefix: pre("10.0.2.0/24"), Gateway: a("10.0.2.2"), DNS: a("10.0.2.3"), Guest: a("10.0.2.100"),
			DHCPStart: a("10.0.2.15"), DHCPEnd: a("10.0.2.30"),
			HostLoopback: []netip.Addr{a("10.0.2.2")}, MAC: [6]byte{0x52, 0x55, 10, 0, 2, 2},
			Addresses: []netip.Prefix{pre("10.0.2.100/24")},
		}},
		{"10.0.135.128/25", "", Plan{
			Prefix: pre("10.0.135.128/25"), Gateway: a("10.0.135.130"), DNS: a("10.0.135.131"), Guest: a("10.0.135.228"),
			DHCPStart: a("10.0.135.143"), DHCPEnd: a("10.0.135.158"),
			HostLoopback: []netip.Addr{a("10.0.135.130")}, MAC: [6]byte{0x52, 0x55, 10, 0, 135, 130},
			Addresses: []netip.Prefix{pre("10.0.135.228/25")},
		}},
		{"10.41.0.0/16", "fd12:3456:789a:1::/64", Plan{
			Prefix: pre("10.41.0.0/16"), Gateway: a("10.41.0.2"), DNS: a("10.41.0.3"), Guest: a("10.41.0.100"),
			DHCPStart: a("10.41.0.15"), DHCPEnd: a("10.41.0.30"),
			Prefix6: pre("fd12:3456:789a:1::/64"), Gateway6: a("fd12:3456:789a:1::2"), DNS6: a("fd12:3456:789a:1::3"),
			Guest6:           a("fd12:3456:789a:1::64"),
			GatewayLinkLocal: a("fe80::2"), DNSLinkLocal: a("fe80::3"),
			HostLoopback: []netip.Addr{a("10.41.0.2"), a("fd12:3456:789a:1::2"), a("fe80::2")}, MAC: [6]byte{0x52, 0x55, 10, 41, 0, 2},
			Addresses: []netip.Prefix{pre("10.41.0.100/16"), pre("fd12:3456:789a:1::64/64")},
		}},
	} {
		var v6 netip.Prefix
		if tt.v6 != "" {
			v6 = pre(tt.v6)
		}
		got, err := New(pre(tt.v4), v6)
		if err != nil {
			t.Errorf("New(%s, %s): %v", tt.v4, tt.v6, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, compareAddrs()); diff != "" {
			t.Errorf("New(%s, %s): (-want +got)\n%s", tt.v4, tt.v6, diff)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	v4, v6 := DefaultIPv4(), DefaultIPv6()
	for _, tt := range []struct {
		name   string
		v4, v6 netip.Prefix
	}{
		{"nothing", netip.Prefix{}, netip.Prefix{}},
		{"length 0", netip.MustParsePrefix("0.0.0.0/0"), v6},
		{"length 26", netip.MustParsePrefix("10.0.2.0/26"), v6},
		{"host bits", netip.MustParsePrefix("10.0.2.1/24"), v6},
		{"IPv6 for IPv4", v6, v6},
		{"mapped", netip.MustParsePrefix("::ffff:10.0.2.0/120"), v6},
		{"IPv4 for IPv6", v4, v4},
		{"a /48", v4, netip.MustParsePrefix("fd00::/48")},
		{"a /80", v4, netip.MustParsePrefix("fd00::/80")},
		{"IPv6 host bits", v4, netip.MustParsePrefix("fd00::1/64")},
		{"IPv6 mapped", v4, netip.MustParsePrefix("::ffff:0.0.0.0/64")},
		{"IPv6 multicast", v4, netip.MustParsePrefix("ff02::/64")},
		{"IPv6 link-local", v4, netip.MustParsePrefix("fe80::/64")},
		{"IPv6 loopback", v4, netip.MustParsePrefix("::/64")},
		{"loopback", netip.MustParsePrefix("127.0.0.0/8"), v6},
	} {
		if got, err := New(tt.v4, tt.v6); err == nil {
			t.Errorf("%s: New(%v, %v) = %+v, want an error", tt.name, tt.v4, tt.v6, got)
		}
	}
}

func TestOwn(t *testing.T) {
	both, err := New(DefaultIPv4(), DefaultIPv6())
	if err != nil {
		t.Fatal(err)
	}
	v4, err := New(DefaultIPv4(), netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	if !both.IPv6() || v4.IPv6() {
		t.Errorf("IPv6: %v with, %v without", both.IPv6(), v4.IPv6())
	}
	if mac := both.MAC; mac != [6]byte{0x52, 0x55, 10, 0, 2, 2} {
		t.Errorf("hardware address % x", mac)
	}
	for _, tt := range []struct {
		addr         string
		gateway, dns bool
		needs6       bool
	}{
		{"10.0.2.2", true, false, false},
		{"10.0.2.3", false, true, false},
		{"fd00::2", true, false, true},
		{"fd00::3", false, true, true},
		{"fe80::2", true, false, true},
		{"fe80::3", false, true, true},
		{"10.0.2.0", false, false, false},
		{"10.0.2.1", false, false, false},
		{"10.0.2.100", false, false, false},
		{"::ffff:10.0.2.2", false, false, false},
		{"fd00::1", false, false, false},
		{"fe80::1", false, false, false},
		{"::", false, false, false},
		{"0.0.0.0", false, false, false},
	} {
		a := netip.MustParseAddr(tt.addr)
		for _, p := range []*Plan{&both, &v4} {
			there := p.IPv6() || !tt.needs6
			gateway, dns := tt.gateway && there, tt.dns && there
			if p.IsGateway(a) != gateway || p.IsDNS(a) != dns || p.IsOwn(a) != (gateway || dns) {
				t.Errorf("%v, IPv6 %v: gateway %v, DNS %v, own %v", a, p.IPv6(), p.IsGateway(a), p.IsDNS(a), p.IsOwn(a))
			}
			listed := false
			for _, o := range p.Own() {
				listed = listed || o == a
			}
			if listed != p.IsOwn(a) {
				t.Errorf("%v, IPv6 %v: listed %v, own %v", a, p.IPv6(), listed, p.IsOwn(a))
			}
		}
	}
	var none Plan
	if none.IsOwn(netip.Addr{}) && none.IPv6() {
		t.Error("the zero plan has IPv6")
	}
}
