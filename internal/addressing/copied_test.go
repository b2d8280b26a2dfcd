package addressing

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addrs(list ...string) (all []netip.Addr) {
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func prefixes(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestNewCopied(t *testing.T) {
	a, pre := netip.MustParseAddr, netip.MustParsePrefix
	mac := CopiedMAC()
	for _, tt := range []struct {
		name string
		in   Copied
		want Plan
	}{
		{"both families, all parts", Copied{
			Addresses: prefixes("192.0.2.10/24", "198.51.100.10/28", "2001:db8:1::10/64", "2001:db8:2::10/128"),
			Gateway:   a("192.0.2.1"), Gateway6: a("fe80::2:1"),
			HostAddrs: addrs("169.254.1.2", "fc00::2"), DNS: addrs("169.254.1.1"),
		}, Plan{
			Outside: true, MAC: mac,
			Addresses: prefixes("192.0.2.10/24", "198.51.100.10/28", "2001:db8:1::10/64", "2001:db8:2::10/128"),
			Guest:     a("192.0.2.10"), Prefix: pre("192.0.2.0/24"), Gateway: a("192.0.2.1"), DNS: a("169.254.1.1"),
			Guest6: a("2001:db8:1::10"), Prefix6: pre("2001:db8:1::/64"), Gateway6: a("fe80::2:1"), GatewayLinkLocal: a("fe80::2:1"),
			HostLoopback: addrs("192.0.2.1", "fe80::2:1"), HostAddrs: addrs("169.254.1.2", "fc00::2"),
		}},
		{"no IPv6, and what callers name of it", Copied{
			Addresses: prefixes("192.0.2.10/32"), Gateway: a("192.0.2.1"), NoMapGateway: true,
			HostLoopback: addrs("fc00::3"), HostAddrs: addrs("169.254.1.2", "fc00::2"), DNS: addrs("fc00::53", "169.254.1.1"),
		}, Plan{
			Outside: true, MAC: mac, Addresses: prefixes("192.0.2.10/32"),
			Guest: a("192.0.2.10"), Prefix: pre("192.0.2.10/32"), Gateway: a("192.0.2.1"), DNS: a("169.254.1.1"),
			HostAddrs: addrs("169.254.1.2"),
		}},
		{"IPv6 alone, with a global router", Copied{
			Addresses: prefixes("fc00::3/64"), Gateway6: a("fc00::1"), MAC: [6]byte{2, 1, 2, 3, 4, 5},
		}, Plan{
			Outside: true, MAC: [6]byte{2, 1, 2, 3, 4, 5}, Addresses: prefixes("fc00::3/64"),
			Guest6: a("fc00::3"), Prefix6: pre("fc00::/64"), Gateway6: a("fc00::1"), GatewayLinkLocal: a("fe80::1"),
			HostLoopback: addrs("fc00::1"),
		}},
		{"addresses without a router", Copied{Addresses: prefixes("192.0.2.10/24", "2001:db8::10/64")}, Plan{
			Outside: true, MAC: mac, Addresses: prefixes("192.0.2.10/24", "2001:db8::10/64"),
			Guest: a("192.0.2.10"), Prefix: pre("192.0.2.0/24"), Gateway: LocalGateway(),
			Guest6: a("2001:db8::10"), Prefix6: pre("2001:db8::/64"), Gateway6: LocalGateway6(), GatewayLinkLocal: LocalGateway6(),
			HostLoopback: addrs("169.254.2.2", "fe80::1"),
		}},
		{"nothing to copy", Copied{Addresses: []netip.Prefix{LocalAddress()}, Gateway6: LocalGateway6()}, Plan{
			Outside: true, MAC: mac, Addresses: prefixes("169.254.2.1/16"),
			Guest: a("169.254.2.1"), Prefix: pre("169.254.0.0/16"), Gateway: LocalGateway(),
			Gateway6: LocalGateway6(), GatewayLinkLocal: LocalGateway6(),
			HostLoopback: addrs("169.254.2.2", "fe80::1"),
		}},
		{"the guest's own stands for nothing", Copied{
			Addresses: prefixes("169.254.1.2/16", "169.254.1.2/16", "169.254.1.1/16"), Gateway: a("169.254.1.2"),
			HostLoopback: addrs("169.254.1.1"), HostAddrs: addrs("169.254.1.2"), DNS: addrs("169.254.1.1"),
		}, Plan{
			Outside: true, MAC: mac, Addresses: prefixes("169.254.1.2/16", "169.254.1.1/16"),
			Guest: a("169.254.1.2"), Prefix: pre("169.254.0.0/16"), Gateway: LocalGateway(),
		}},
		{"loopback elsewhere", Copied{
			Addresses: prefixes("10.0.2.100/24", "fd00::100/64"), Gateway: a("10.0.2.2"), Gateway6: a("fd00::2"),
			HostLoopback: addrs("10.0.2.9"), DNS: addrs("10.0.2.3", "fd00::3"),
		}, Plan{
			Outside: true, MAC: mac, Addresses: prefixes("10.0.2.100/24", "fd00::100/64"),
			Guest: a("10.0.2.100"), Prefix: pre("10.0.2.0/24"), Gateway: a("10.0.2.2"), DNS: a("10.0.2.3"),
			Guest6: a("fd00::100"), Prefix6: pre("fd00::/64"), Gateway6: a("fd00::2"), GatewayLinkLocal: a("fe80::1"), DNS6: a("fd00::3"),
			HostLoopback: addrs("10.0.2.9", "fd00::2"),
		}},
	} {
		got, err := NewCopied(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, compareAddrs()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
	}
}

func TestNewCopiedRefuses(t *testing.T) {
	good := prefixes("192.0.2.10/24", "2001:db8::10/64")
	for name, c := range map[string]Copied{
		"nothing":                  {},
		"a loopback address":       {Addresses: prefixes("127.0.0.1/8")},
		"a multicast address":      {Addresses: prefixes("224.0.0.1/8")},
		"no address":               {Addresses: prefixes("0.0.0.0/0")},
		"a link-local address":     {Addresses: prefixes("fe80::5/64")},
		"an invalid address":       {Addresses: []netip.Prefix{{}}},
		"loopback by its own name": {Addresses: good, HostLoopback: addrs("127.0.0.1")},
		"the host as a group":      {Addresses: good, HostAddrs: addrs("ff02::1")},
		"DNS at a mapped address":  {Addresses: good, DNS: addrs("::ffff:192.0.2.1")},
		"two DNS of a family":      {Addresses: good, DNS: addrs("192.0.2.53", "192.0.2.54")},
		"a group's MAC address":    {Addresses: good, MAC: [6]byte{1}},
	} {
		if p, err := NewCopied(c); err == nil {
			t.Errorf("%s: %+v, want an error", name, p)
		}
	}
}

// Who answers on the guest's link for whom: for everybody but the guest, where its
// subnets lie outside.
func TestAnswers(t *testing.T) {
	copied, err := NewCopied(Copied{
		Addresses: prefixes("192.0.2.10/24", "198.51.100.10/28", "2001:db8:1::10/64"), Gateway: netip.MustParseAddr("192.0.2.1"),
		Gateway6: netip.MustParseAddr("fe80::2:1"), NoMapGateway: true,
		HostAddrs: addrs("169.254.1.2"), DNS: addrs("169.254.1.1", "fc00::53"),
	})
	if err != nil {
		t.Fatal(err)
	}
	single, err := New(DefaultIPv4(), DefaultIPv6())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		addr                 string
		holds, answers, own  bool // where the subnet is outside
		answersInside, isOwn bool // in the plan of New
	}{
		{"192.0.2.1", true, true, false, false, false},
		{"169.254.1.1", true, true, false, false, false},
		{"169.254.1.2", true, true, true, false, false},
		{"fc00::53", true, true, false, false, false},
		{"fe80::2:1", true, true, true, false, false},
		{"192.0.2.77", false, true, false, false, false},
		{"8.8.8.8", false, true, false, false, false},
		{"169.254.9.9", false, true, false, false, false},
		{"2001:db8:1::77", false, true, false, false, false},
		{"10.0.2.2", false, true, false, true, true},
		{"10.0.2.3", false, true, false, true, true},
		{"fe80::2", false, false, false, true, true},
		{"fe80::77", false, false, false, false, false},
		{"192.0.2.10", false, false, false, false, false},
		{"198.51.100.10", false, false, false, false, false},
		{"2001:db8:1::10", false, false, false, false, false},
		{"127.0.0.1", false, false, false, false, false},
		{"::1", false, false, false, false, false},
		{"224.0.0.1", false, false, false, false, false},
		{"ff02::1", false, false, false, false, false},
		{"0.0.0.0", false, false, false, false, false},
		{"0.0.0.9", false, false, false, false, false},
		{"255.255.255.255", false, false, false, false, false},
		{"240.0.0.1", false, false, false, false, false},
		{"::", false, false, false, false, false},
		{"::ffff:192.0.2.77", false, false, false, false, false},
		{"10.0.2.100", false, true, false, false, false},
	} {
		a := netip.MustParseAddr(tt.addr)
		if copied.Holds(a) != tt.holds || copied.Answers(a) != tt.answers || copied.IsOwn(a) != tt.own {
			t.Errorf("%v outside: holds %v, answers %v, own %v", a, copied.Holds(a), copied.Answers(a), copied.IsOwn(a))
		}
		if single.Answers(a) != tt.answersInside || single.IsOwn(a) != tt.isOwn || single.Holds(a) != tt.isOwn {
			t.Errorf("%v inside: holds %v, answers %v, own %v", a, single.Holds(a), single.Answers(a), single.IsOwn(a))
		}
	}
	if copied.Answers(netip.Addr{}) || copied.IsGateway(netip.Addr{}) || copied.IsDNS(netip.Addr{}) || copied.IsGuest(netip.Addr{}) {
		t.Error("no address at all plays a part")
	}
}

func TestStandIns(t *testing.T) {
	p, err := New(DefaultIPv4(), DefaultIPv6())
	if err != nil {
		t.Fatal(err)
	}
	for guest, want := range map[string]string{"10.0.2.100": "10.0.2.2", "fd00::64": "fd00::2", "fe80::64": "fe80::2"} {
		g := netip.MustParseAddr(guest)
		if got := p.LoopbackFor(g); got.String() != want || p.GatewayFor(g) != got {
			t.Errorf("%s sees the host's loopback as %v and the gateway as %v, want %s", guest, got, p.GatewayFor(g), want)
		}
		if got := p.HostAddrFor(g); got.IsValid() {
			t.Errorf("%s sees the host's address as %v", guest, got)
		}
	}
}
