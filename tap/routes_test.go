package tap

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"epiphyte/internal/hostnet"
)

// A guest gets several addresses, and routes in whatever order they come: one whose
// gateway is reached by another, one by a gateway of the other family, one that cannot be.
func TestConfigure_Copied(t *testing.T) {
	a, pre := netip.MustParseAddr, netip.MustParsePrefix
	const link = unix.RT_SCOPE_LINK
	via := func(s string) hostnet.Hop { return hostnet.Hop{Gateway: a(s)} }
	for name, tt := range map[string]struct {
		network Network
		want    string
	}{
		"routes that depend on each other": {
			Network{
				Address: pre("192.0.2.10/32"), Gateway: a("192.0.2.1"), Address6: pre("2001:db8:1::10/64"), Gateway6: a("fe80::2:1"),
				More: []netip.Prefix{pre("198.51.100.10/28"), pre("2001:db8:2::10/128")},
				Routes: []hostnet.Route{
					{Dst: pre("203.0.113.0/24"), Hop: via("10.7.7.7"), Metric: 5},
					{Dst: pre("10.7.7.0/24"), Scope: link, Metric: 5},
					{Dst: pre("0.0.0.0/0"), Hop: via("192.0.2.1"), Metric: 100, Source: a("192.0.2.99")},
					{Dst: pre("192.0.2.1/32"), Scope: link, Metric: 100},
					{Dst: pre("198.51.100.0/28"), Scope: link, Kernel: true},
					{Dst: pre("10.9.0.0/16"), Hop: via("10.99.99.99")},
					{Dst: pre("10.8.0.0/16"), Hop: via("fe80::7")},
					{Dst: pre("2001:db8:9::/48"), Hop: via("2001:db8:1::9"), Metric: 7},
					{Dst: pre("::/0"), Hop: via("fe80::2:1"), Metric: 1024},
				},
			},
			`192.0.2.10/32
198.51.100.10/28
2001:db8:1::10/64
2001:db8:2::10/128
0.0.0.0/0 via 192.0.2.1 metric 100 on-link false source invalid IP
10.7.7.0/24 via invalid IP metric 5 on-link false source invalid IP
10.8.0.0/16 via fe80::7 metric 0 on-link false source invalid IP
192.0.2.1/32 via invalid IP metric 100 on-link false source invalid IP
203.0.113.0/24 via 10.7.7.7 metric 5 on-link false source invalid IP
2001:db8:9::/48 via 2001:db8:1::9 metric 7 on-link false source invalid IP
::/0 via fe80::2:1 metric 1024 on-link false source invalid IP
`,
		},
		"a gateway outside the subnet": {
			Network{Address: pre("192.0.2.10/24"), Gateway: a("169.254.2.2"), Address6: pre("2001:db8:1::10/64"), Gateway6: a("2001:db8:5::1")},
			`192.0.2.10/24
2001:db8:1::10/64
0.0.0.0/0 via 169.254.2.2 metric 0 on-link true source invalid IP
::/0 via 2001:db8:5::1 metric 512 on-link true source invalid IP
`,
		},
		"nothing but a router of IPv6": {
			Network{Address: pre("169.254.2.1/16"), Gateway: a("169.254.2.2"), Gateway6: a("fe80::1")},
			`0.0.0.0/0 via 169.254.2.2 metric 0 on-link false source invalid IP
::/0 via fe80::1 metric 512 on-link false source invalid IP
`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, nesting{})
			d := open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: &tt.network})
			if !d.HasIPv6() {
				t.Error("the guest has no IPv6")
			}
			if diff := cmp.Diff(tt.want, g.do(command{Do: "network"}).Text); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
