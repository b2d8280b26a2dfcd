package policy

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/flow"
)

// everyRules are all configurations: of a single guest, of a network and of a guest with
// the host's addresses, with and without a way out.
func everyRules(t testing.TB) (all []*Rules) {
	for _, r := range testRules(t) {
		network, copied := *r, *copiedRules(t)
		network.Plan = addressingtest.Network(t)
		copied.DisableHostLoopback, copied.DisableDNS = r.DisableHostLoopback, r.DisableDNS
		for _, r := range []Rules{*r, network, copied} {
			internal := r
			internal.Internal = true
			all = append(all, &r, &internal)
		}
	}
	return all
}

// TestDecideNetwork: where gateway and DNS are one address, port 53 is DNS, and every
// other one is the gateway's.
func TestDecideNetwork(t *testing.T) {
	dns, dhcp, drop := Decision{Action: ServeDNS}, Decision{Action: ServeDHCP}, Decision{}
	unreachable := refuse(unix.ENETUNREACH)
	const tcpUDP = tcp | udp
	for _, tt := range []struct {
		dst             string
		proto           int
		open, noHost    Decision // with the host's loopback, and without
		noDNS, internal Decision // with the host's loopback
	}{
		{"10.90.0.1:53", tcpUDP, dns, dns, allow("127.0.0.1:53"), dns},
		{"[fd90::1]:53", tcpUDP, dns, dns, allow("[::1]:53"), dns},
		{"[fe80::1]:53", tcpUDP, dns, dns, allow("[::1]:53"), dns},
		{"10.90.0.1:54", tcpUDP, allow("127.0.0.1:54"), unreachable, allow("127.0.0.1:54"), unreachable},
		{"10.90.0.1:80", tcpUDP, allow("127.0.0.1:80"), unreachable, allow("127.0.0.1:80"), unreachable},
		{"[fd90::1]:80", tcpUDP, allow("[::1]:80"), unreachable, allow("[::1]:80"), unreachable},
		{"[fe80::1]:80", tcpUDP, allow("[::1]:80"), unreachable, allow("[::1]:80"), unreachable},
		{"10.90.0.1:0", echo, allow("127.0.0.1:0"), unreachable, allow("127.0.0.1:0"), unreachable},
		{"[fd90::1]:0", echo, allow("[::1]:0"), unreachable, allow("[::1]:0"), unreachable},

		{"10.90.0.1:67", udp, dhcp, dhcp, dhcp, dhcp},
		{"255.255.255.255:67", udp, dhcp, dhcp, dhcp, dhcp},
		{"[ff02::1:2]:547", udp, Decision{Action: ServeDHCP6}, Decision{Action: ServeDHCP6}, Decision{Action: ServeDHCP6}, Decision{Action: ServeDHCP6}},

		// Members and free addresses are the bridge's.
		{"10.90.0.2:53", all, drop, drop, drop, drop},
		{"10.90.0.0:80", all, drop, drop, drop, drop},
		{"10.90.0.255:80", all, drop, drop, drop, drop},
		{"[fd90::2]:53", all, drop, drop, drop, drop},

		{"192.0.2.1:53", all, allow("192.0.2.1:53"), allow("192.0.2.1:53"), allow("192.0.2.1:53"), unreachable},
		{"10.90.1.1:53", all, allow("10.90.1.1:53"), allow("10.90.1.1:53"), allow("10.90.1.1:53"), unreachable}, // the next network's
		{"10.0.2.3:53", all, allow("10.0.2.3:53"), allow("10.0.2.3:53"), allow("10.0.2.3:53"), unreachable},
		{"[2001:db8::1]:443", all, allow("[2001:db8::1]:443"), allow("[2001:db8::1]:443"), allow("[2001:db8::1]:443"), unreachable},
		{"127.0.0.1:80", all, drop, drop, drop, drop},
		{"[::1]:80", all, drop, drop, drop, drop},
		{"224.0.0.1:80", all, drop, drop, drop, drop},
	} {
		p := addressingtest.Network(t)
		for name, c := range map[string]struct {
			rules Rules
			want  Decision
		}{
			"open":             {Rules{Plan: p}, tt.open},
			"no host loopback": {Rules{Plan: p, DisableHostLoopback: true}, tt.noHost},
			"no DNS":           {Rules{Plan: p, DisableDNS: true}, tt.noDNS},
			"internal":         {Rules{Plan: p, Internal: true}, tt.internal},
		} {
			for bit, proto := range map[int]uint8{tcp: unix.IPPROTO_TCP, udp: unix.IPPROTO_UDP, echo: unix.IPPROTO_ICMP} {
				if tt.proto&bit == 0 {
					continue
				}
				if diff := cmp.Diff(c.want, c.rules.Decide(out(proto, netip.MustParseAddrPort(tt.dst))), compareAddrs()); diff != "" {
					t.Errorf("%s: protocol %d to %s: (-want +got)\n%s", name, proto, tt.dst, diff)
				}
			}
		}
	}
}

// An internal network has no flow beyond it, whoever begins; nothing else changes.
func TestInternalAllowsNothing(t *testing.T) {
	at := netip.MustParseAddrPort
	requests := []Request{
		out(unix.IPPROTO_UDP, at("192.0.2.1:53")),
		out(unix.IPPROTO_TCP, at("10.0.2.2:80")),
		out(unix.IPPROTO_TCP, at("10.0.2.3:53")),
		out(unix.IPPROTO_UDP, at("10.90.0.1:53")),
		reply(netip.MustParseAddr("192.0.2.1")),
		reply(netip.MustParseAddr("127.0.0.1")),
		{Direction: In, Origin: flow.FromPublished, Proto: unix.IPPROTO_TCP, Src: at("192.0.2.1:5000"), Dst: at("10.90.0.2:80")},
		{Direction: In, Origin: flow.FromPublished, Proto: unix.IPPROTO_UDP, Src: at("127.0.0.1:5000"), Dst: at("10.90.0.2:53")},
		{Direction: Out, Origin: flow.FromExposed, Proto: unix.IPPROTO_TCP, Src: at("127.0.0.1:4000"), Dst: at("127.0.0.1:5432")},
	}
	for _, internal := range everyRules(t) {
		if !internal.Internal {
			continue
		}
		open := *internal
		open.Internal = false
		for _, q := range requests {
			want := open.Decide(q)
			if want.Action == Allow {
				want = refuse(unix.ENETUNREACH)
			}
			if got := internal.Decide(q); !reflect.DeepEqual(got, want) {
				t.Errorf("%+v is answered %+v, want %+v (%+v)", q, got, want, internal)
			}
		}
	}
}

// Nobody outside speaks with the voice of a network's gateway, and what comes from the
// host's loopback comes from there.
func TestDecideNetworkReply(t *testing.T) {
	wantReplies(t, &Rules{Plan: addressingtest.Network(t)}, [][3]string{
		{"127.0.0.1:80", "10.90.0.2:4000", "10.90.0.1:80"},
		{"[::1]:80", "[fd90::2]:4000", "[fd90::1]:80"},
		{"[::1]:80", "[fe80::2]:4000", "[fe80::1]:80"},
		{"192.0.2.1:80", "10.90.0.2:4000", "192.0.2.1:80"},
		{"10.90.0.1:80", "10.90.0.2:4000", ""},
		{"[fd90::1]:80", "[fd90::2]:4000", ""},
		{"[fe80::1]:80", "[fe80::2]:4000", ""},
	})
}
