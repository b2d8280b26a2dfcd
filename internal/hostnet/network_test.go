package hostnet

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func pre(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s) // "" is not an address
	return a
}

// A host with two interfaces besides loopback, one of them the way out.
func host() *Network {
	return &Network{
		Links: []Link{{1, "lo", true, true}, {2, "eth0", true, false}, {3, "wlan0", true, false}, {4, "docker0", false, false}},
		Addresses: []Address{
			{2, pre("192.0.2.9/24"), true}, {2, pre("192.0.2.10/24"), false}, {2, pre("192.0.2.11/24"), false},
			{3, pre("198.51.100.7/24"), false}, {3, pre("2001:db8:3::7/64"), false}, {4, pre("172.17.0.1/16"), false},
		},
		Routes: []Route{
			{Link: 3, Dst: pre("0.0.0.0/0"), Hop: Hop{Gateway: addr("198.51.100.1")}, Metric: 600},
			{Link: 2, Dst: pre("0.0.0.0/0"), Hop: Hop{Gateway: addr("192.0.2.1")}, Metric: 100, Source: addr("192.0.2.11")},
			{Link: 2, Dst: pre("192.0.2.0/24"), Source: addr("192.0.2.10"), Kernel: true},
			{Link: 3, Dst: pre("198.51.100.0/24"), Kernel: true},
			{Link: 3, Dst: pre("2001:db8:3::/64"), Kernel: true},
		},
	}
}

func TestTemplate(t *testing.T) {
	without := func(n *Network, link int) *Network {
		var left []Route
		for _, r := range n.Routes {
			if !r.Default() || link != 0 && r.Link != link {
				left = append(left, r)
			}
		}
		n.Routes = left
		return n
	}
	empty := &Network{Links: []Link{{1, "lo", true, true}, {2, "eth0", true, false}}}
	for name, tt := range map[string]struct {
		in   *Network
		link string
		v6   bool
		want string // interface; empty: nothing to copy
		addr []netip.Prefix
		gw   string
		nets []string // of routes
	}{
		"by the default route": {host(), "", false, "eth0",
			[]netip.Prefix{pre("192.0.2.10/24"), pre("192.0.2.11/24"), pre("192.0.2.9/24")}, "192.0.2.1", []string{"0.0.0.0/0", "192.0.2.0/24"}},
		"by the other default route": {without(host(), 2), "", false, "wlan0",
			[]netip.Prefix{pre("198.51.100.7/24")}, "198.51.100.1", []string{"0.0.0.0/0", "198.51.100.0/24"}},
		"by name": {host(), "wlan0", false, "wlan0",
			[]netip.Prefix{pre("198.51.100.7/24")}, "198.51.100.1", []string{"0.0.0.0/0", "198.51.100.0/24"}},
		"by name, no such family":           {host(), "eth0", true, "", nil, "", nil},
		"the only one with an address":      {host(), "", true, "wlan0", []netip.Prefix{pre("2001:db8:3::7/64")}, "", []string{"2001:db8:3::/64"}},
		"two without a default route":       {without(host(), 0), "", false, "", nil, "", nil},
		"no address but loopback's":         {empty, "", false, "", nil, "", nil},
		"no address but loopback's of IPv6": {empty, "eth0", true, "", nil, "", nil},
	} {
		got, ok, err := tt.in.Template(tt.link, tt.v6)
		if err != nil || ok != (tt.want != "") || got.Link.Name != tt.want {
			t.Errorf("%s: %+v, %v, %v", name, got, ok, err)
			continue
		}
		var nets []string
		for _, r := range got.Routes {
			nets = append(nets, r.Dst.String())
			if r.Source.IsValid() {
				t.Errorf("%s: the route to %v has a source", name, r.Dst)
			}
		}
		if diff := cmp.Diff(tt.nets, nets) + cmp.Diff(tt.addr, got.Addresses, cmpopts.EquateComparable(netip.Prefix{})); diff != "" || got.Gateway != addr(tt.gw) {
			t.Errorf("%s: gateway %v (-want +got)\n%s", name, got.Gateway, diff)
		}
	}
	if _, _, err := host().Template("eth9", false); !errors.Is(err, ErrNoInterface) {
		t.Errorf("an interface that is not there: %v", err)
	}
}

func TestMainAddress(t *testing.T) {
	noSource, noDefault, gone := host(), host(), host()
	noSource.Routes[1].Source = addr("192.0.2.250") // an address that has been taken away
	noDefault.Routes = noDefault.Routes[2:]
	gone.Addresses = gone.Addresses[3:]
	for name, tt := range map[string]struct {
		in     *Network
		prefer string
		v4, v6 string
	}{
		"that of the default route":       {host(), "", "192.0.2.11", "2001:db8:3::7"},
		"first of the default route's":    {noSource, "", "192.0.2.10", "2001:db8:3::7"},
		"first of all without a route":    {noDefault, "", "192.0.2.10", "2001:db8:3::7"},
		"of another interface":            {gone, "", "198.51.100.7", "2001:db8:3::7"},
		"preferred":                       {host(), "wlan0", "198.51.100.7", "2001:db8:3::7"},
		"preferred, but without address":  {gone, "eth0", "198.51.100.7", "2001:db8:3::7"},
		"preferred, but not there":        {host(), "eth9", "192.0.2.11", "2001:db8:3::7"},
		"nothing":                         {&Network{}, "", "", ""},
		"an interface that is down alone": {&Network{Links: host().Links[3:], Addresses: host().Addresses[5:]}, "", "", ""},
	} {
		if v4, v6 := tt.in.Main(false, tt.prefer), tt.in.Main(true, tt.prefer); v4 != addr(tt.v4) || v6 != addr(tt.v6) {
			t.Errorf("%s: %v and %v, want %q and %q", name, v4, v6, tt.v4, tt.v6)
		}
	}
}
