package policy

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/flow"
)

// Configurations that a row of the table may hold for.
const (
	open       = 1 << iota // host loopback and DNS as by default
	noLoopback             // DisableHostLoopback
	noDNS                  // DisableDNS
	neither                // both
	always     = open | noLoopback | noDNS | neither
)

// Protocols that a row may hold for.
const (
	tcp = 1 << iota
	udp
	echo
	all = tcp | udp | echo
)

func testRules(t testing.TB) map[int]*Rules {
	p := addressingtest.New(t)
	return map[int]*Rules{
		open:       {Plan: p},
		noLoopback: {Plan: p, DisableHostLoopback: true},
		noDNS:      {Plan: p, DisableDNS: true},
		neither:    {Plan: p, DisableHostLoopback: true, DisableDNS: true},
	}
}

func allow(s string) Decision {
	return Decision{Action: Allow, To: netip.MustParseAddrPort(s)}
}

func refuse(errno unix.Errno) Decision { return Decision{Action: Refuse, Errno: errno} }

// out is what the guest asks for, by its device.
func out(proto uint8, dst netip.AddrPort) Request {
	src := netip.MustParseAddrPort("10.0.2.100:4000")
	if dst.Addr().Is6() {
		src = netip.MustParseAddrPort("[fd00::64]:4000")
	}
	return Request{Direction: Out, Origin: flow.FromGuest, Proto: proto, Src: src, Dst: dst}
}

// TestDecide is the security boundary written down (B40): whatever the
// guest asks for, this is what becomes of it. Echo requests are asked for with
// port 0, so for them the port of the destination and of the answer is ignored.
func TestDecide(t *testing.T) {
	drop := Decision{}
	tests := []struct {
		name   string
		dst    string
		proto  int
		config int
		want   Decision
	}{
		// The outside passes unchanged, on any port.
		{"public v4", "93.184.216.34:80", all, always, allow("93.184.216.34:80")},
		{"public v4 port 53", "9.9.9.9:53", all, always, allow("9.9.9.9:53")},
		{"public v4 port 67", "9.9.9.9:67", all, always, allow("9.9.9.9:67")},
		{"private v4", "192.168.1.1:443", all, always, allow("192.168.1.1:443")},
		{"subnet beside the plan's", "10.0.3.2:80", all, always, allow("10.0.3.2:80")},
		{"below the plan's", "10.0.1.255:80", all, always, allow("10.0.1.255:80")},
		{"link-local v4", "169.254.169.254:80", all, always, allow("169.254.169.254:80")},
		{"first after 0/8", "1.0.0.0:80", all, always, allow("1.0.0.0:80")},
		{"last before loopback", "126.255.255.255:80", all, always, allow("126.255.255.255:80")},
		{"first after loopback", "128.0.0.0:80", all, always, allow("128.0.0.0:80")},
		{"last before multicast", "223.255.255.255:80", all, always, allow("223.255.255.255:80")},
		{"public v6", "[2606:4700::1111]:443", all, always, allow("[2606:4700::1111]:443")},
		{"unique local v6 elsewhere", "[fd00:0:0:1::2]:80", all, always, allow("[fd00:0:0:1::2]:80")},
		{"NAT64", "[64:ff9b::7f00:1]:80", all, always, allow("[64:ff9b::7f00:1]:80")},
		{"first after v4-mapped", "[::1:0:0:1]:80", all, always, allow("[::1:0:0:1]:80")},

		// The gateway is the host's loopback, or nothing.
		{"gateway v4", "10.0.2.2:80", all, open | noDNS, allow("127.0.0.1:80")},
		{"gateway v4 port 53", "10.0.2.2:53", all, open | noDNS, allow("127.0.0.1:53")},
		{"gateway v4 port 68", "10.0.2.2:68", all, open | noDNS, allow("127.0.0.1:68")},
		{"gateway v4 port 67 by TCP", "10.0.2.2:67", tcp | echo, open | noDNS, allow("127.0.0.1:67")},
		{"gateway v6", "[fd00::2]:80", all, open | noDNS, allow("[::1]:80")},
		{"gateway v6 port 547 by TCP", "[fd00::2]:547", tcp | echo, open | noDNS, allow("[::1]:547")},
		{"gateway link-local", "[fe80::2]:80", all, open | noDNS, allow("[::1]:80")},
		{"gateway v4, disabled", "10.0.2.2:80", all, noLoopback | neither, refuse(unix.ENETUNREACH)},
		{"gateway v4 port 53, disabled", "10.0.2.2:53", all, noLoopback | neither, refuse(unix.ENETUNREACH)},
		{"gateway v4 port 67 by TCP, disabled", "10.0.2.2:67", tcp | echo, noLoopback | neither, refuse(unix.ENETUNREACH)},
		{"gateway v6, disabled", "[fd00::2]:80", all, noLoopback | neither, refuse(unix.ENETUNREACH)},
		{"gateway link-local, disabled", "[fe80::2]:80", all, noLoopback | neither, refuse(unix.ENETUNREACH)},

		// The DNS address answers queries and nothing else.
		{"DNS v4", "10.0.2.3:53", tcp | udp, open | noLoopback, Decision{Action: ServeDNS}},
		{"DNS v6", "[fd00::3]:53", tcp | udp, open | noLoopback, Decision{Action: ServeDNS}},
		{"DNS link-local", "[fe80::3]:53", tcp | udp, open | noLoopback, Decision{Action: ServeDNS}},
		{"DNS v4, another port by TCP", "10.0.2.3:80", tcp, open | noLoopback, refuse(unix.ENETUNREACH)},
		{"DNS v4, another port by UDP", "10.0.2.3:80", udp, open | noLoopback, refuse(unix.ECONNREFUSED)},
		{"DNS v6, another port by TCP", "[fd00::3]:853", tcp, open | noLoopback, refuse(unix.ENETUNREACH)},
		{"DNS v6, another port by UDP", "[fd00::3]:853", udp, open | noLoopback, refuse(unix.ECONNREFUSED)},
		{"DNS v4, DHCP's port", "10.0.2.3:67", udp, open | noLoopback, refuse(unix.ECONNREFUSED)},
		{"DNS v4, echo", "10.0.2.3:0", echo, open | noLoopback, refuse(unix.ENETUNREACH)},
		{"DNS v4, disabled", "10.0.2.3:53", all, noDNS | neither, allow("10.0.2.3:53")},
		{"DNS v4, disabled, another port", "10.0.2.3:80", all, noDNS | neither, allow("10.0.2.3:80")},
		{"DNS v6, disabled", "[fd00::3]:53", all, noDNS | neither, allow("[fd00::3]:53")},
		{"DNS link-local, disabled", "[fe80::3]:53", all, noDNS | neither, refuse(unix.ENETUNREACH)},

		// DHCP, whatever is disabled.
		{"DHCP by broadcast", "255.255.255.255:67", udp, always, Decision{Action: ServeDHCP}},
		{"DHCP by unicast", "10.0.2.2:67", udp, always, Decision{Action: ServeDHCP}},
		{"DHCP's port by TCP", "255.255.255.255:67", tcp | echo, always, drop},
		{"DHCPv6 by multicast", "[ff02::1:2]:547", udp, always, Decision{Action: ServeDHCP6}},
		{"DHCPv6 by unicast", "[fd00::2]:547", udp, always, Decision{Action: ServeDHCP6}},
		{"DHCPv6 to the link-local gateway", "[fe80::2]:547", udp, always, Decision{Action: ServeDHCP6}},
		{"DHCPv6's port by TCP", "[ff02::1:2]:547", tcp | echo, always, drop},
		{"DHCPv6's group, another port", "[ff02::1:2]:53", all, always, drop},
		{"DHCPv6's site-wide group", "[ff05::1:3]:547", all, always, drop},

		// Loopback by its own name never passes.
		{"127.0.0.1", "127.0.0.1:80", all, always, drop},
		{"127.0.0.1 port 53", "127.0.0.1:53", all, always, drop},
		{"127.0.0.1 port 67", "127.0.0.1:67", all, always, drop},
		{"127.0.0.0", "127.0.0.0:80", all, always, drop},
		{"127.0.0.53", "127.0.0.53:53", all, always, drop},
		{"127.255.255.255", "127.255.255.255:80", all, always, drop},
		{"::1", "[::1]:80", all, always, drop},
		{"::1 port 547", "[::1]:547", all, always, drop},

		// Nor do the names that a kernel takes for this machine.
		{"0.0.0.0", "0.0.0.0:80", all, always, drop},
		{"0.0.0.0 port 67", "0.0.0.0:67", all, always, drop},
		{"0.0.0.1", "0.0.0.1:80", all, always, drop},
		{"0.255.255.255", "0.255.255.255:80", all, always, drop},
		{"::", "[::]:80", all, always, drop},
		{":: port 547", "[::]:547", all, always, drop},

		// Nor IPv4 in an IPv6 disguise, not even the outside's.
		{"mapped loopback", "[::ffff:127.0.0.1]:80", all, always, drop},
		{"mapped unspecified", "[::ffff:0.0.0.0]:80", all, always, drop},
		{"mapped gateway", "[::ffff:10.0.2.2]:80", all, always, drop},
		{"mapped gateway, DHCP", "[::ffff:10.0.2.2]:67", all, always, drop},
		{"mapped DNS", "[::ffff:10.0.2.3]:53", all, always, drop},
		{"mapped broadcast, DHCP", "[::ffff:255.255.255.255]:67", all, always, drop},
		{"mapped public", "[::ffff:93.184.216.34]:80", all, always, drop},
		{"compatible loopback", "[::127.0.0.1]:80", all, always, drop},
		{"compatible public", "[::93.184.216.34]:80", all, always, drop},
		{"compatible, last", "[::255.255.255.255]:80", all, always, drop},
		{"::2", "[::2]:80", all, always, drop},

		// Nor many at once.
		{"limited broadcast", "255.255.255.255:80", all, always, drop},
		{"subnet broadcast", "10.0.2.255:80", all, always, drop},
		{"subnet broadcast, DHCP's port", "10.0.2.255:67", all, always, drop},
		{"all hosts v4", "224.0.0.1:80", all, always, drop},
		{"mDNS", "224.0.0.251:5353", all, always, drop},
		{"SSDP", "239.255.255.250:1900", all, always, drop},
		{"last multicast v4", "239.255.255.255:80", all, always, drop},
		{"all nodes, interface", "[ff01::1]:80", all, always, drop},
		{"all nodes, link", "[ff02::1]:80", all, always, drop},
		{"global multicast v6", "[ff0e::1]:80", all, always, drop},

		// What the plan holds and nobody lives at stays inside.
		{"network address", "10.0.2.0:80", all, always, drop},
		{"the free .1", "10.0.2.1:80", all, always, drop},
		{"a lease", "10.0.2.15:80", all, always, drop},
		{"the guest itself", "10.0.2.100:80", all, always, drop},
		{"last of the subnet", "10.0.2.254:80", all, always, drop},
		{"v6 network address", "[fd00::]:80", all, always, drop},
		{"v6 free ::1", "[fd00::1]:80", all, always, drop},
		{"v6 in the guest's /64", "[fd00::d43a:cff:fe63:c838]:80", all, always, drop},

		// Link-local IPv6 has no meaning beyond the link.
		{"link-local v6", "[fe80::1]:80", all, always, drop},
		{"link-local v6, another", "[fe80::d43a:cff:fe63:c838]:22", all, always, drop},
		{"last link-local v6", "[febf:ffff::1]:80", all, always, drop},
	}
	protos := map[int]uint8{tcp: unix.IPPROTO_TCP, udp: unix.IPPROTO_UDP}
	rules := testRules(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for config, r := range rules {
				if tt.config&config == 0 {
					continue
				}
				for bit := tcp; bit < all; bit <<= 1 {
					if tt.proto&bit == 0 {
						continue
					}
					dst := netip.MustParseAddrPort(tt.dst)
					want := tt.want
					proto, ok := protos[bit]
					if !ok {
						proto = unix.IPPROTO_ICMP
						if dst.Addr().Is6() {
							proto = unix.IPPROTO_ICMPV6
						}
						dst = netip.AddrPortFrom(dst.Addr(), 0)
						if want.Action == Allow {
							want.To = netip.AddrPortFrom(want.To.Addr(), 0)
						}
						if config&(noDNS|neither) == 0 && r.Plan.IsDNS(dst.Addr()) {
							want = refuse(unix.ENETUNREACH)
						}
					}
					if diff := cmp.Diff(want, r.Decide(out(proto, dst)), compareAddrs()); diff != "" {
						t.Errorf("protocol %d to %v, loopback disabled %v, DNS disabled %v: (-want +got)\n%s",
							proto, dst, r.DisableHostLoopback, r.DisableDNS, diff)
					}
				}
			}
		})
	}
	if got := rules[open].Decide(out(unix.IPPROTO_TCP, netip.AddrPort{})); got.Action != Drop {
		t.Errorf("no address at all: %v, want a drop", got)
	}
}

func compareAddrs() cmp.Option {
	return cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})
}

// Without IPv6, its addresses of the plan mean nothing.
func TestDecideIPv4Only(t *testing.T) {
	p := addressingtest.IPv4Only(t)
	r := Rules{Plan: p}
	for _, dst := range []string{"[fe80::2]:80", "[fe80::3]:53", "[::]:53", "[::1]:80", "[::ffff:10.0.2.2]:80"} {
		if got := r.Decide(out(unix.IPPROTO_TCP, netip.MustParseAddrPort(dst))); got.Action != Drop {
			t.Errorf("%s: %+v, want a drop", dst, got)
		}
	}
	if got := r.Decide(out(unix.IPPROTO_UDP, netip.MustParseAddrPort("[fe80::2]:547"))); got.Action != Drop {
		t.Errorf("DHCPv6 at the gateway's link-local address: %+v, want a drop", got)
	}
	if got := r.Decide(reply(netip.IPv6Loopback())); got.Action != Drop {
		t.Error("a sender at ::1 is shown to a guest without IPv6")
	}
}

// The plan, not a constant, says where the gateway is.
func TestDecideOtherPlan(t *testing.T) {
	p, err := addressing.New(netip.MustParsePrefix("10.41.0.0/16"), netip.MustParsePrefix("fd12:3456::/64"))
	if err != nil {
		t.Fatal(err)
	}
	r := Rules{Plan: p}
	for dst, want := range map[string]Decision{
		"10.41.0.2:80":      allow("127.0.0.1:80"),
		"10.41.0.3:53":      {Action: ServeDNS},
		"10.41.255.255:80":  {},
		"10.0.2.2:80":       allow("10.0.2.2:80"),
		"[fd12:3456::2]:80": allow("[::1]:80"),
		"[fd12:3456::9]:80": {},
		"[fd00::2]:80":      allow("[fd00::2]:80"),
	} {
		if diff := cmp.Diff(want, r.Decide(out(unix.IPPROTO_TCP, netip.MustParseAddrPort(dst))), compareAddrs()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", dst, diff)
		}
	}
}

func TestDecideReply(t *testing.T) {
	const hidden = ""
	tests := []struct {
		src    string
		config int
		want   string
	}{
		{"93.184.216.34", always, "93.184.216.34"},
		{"2606:4700::1111", always, "2606:4700::1111"},
		{"::ffff:93.184.216.34", always, "93.184.216.34"}, // as a dual-stack socket writes it
		{"10.0.2.100", always, "10.0.2.100"},              // a colliding network of the host's

		{"127.0.0.1", open | noDNS, "10.0.2.2"},
		{"127.0.0.53", open | noDNS, "10.0.2.2"},
		{"::ffff:127.0.0.1", open | noDNS, "10.0.2.2"},
		{"::1", open | noDNS, "fd00::2"},
		{"127.0.0.1", noLoopback | neither, hidden},
		{"::ffff:127.0.0.1", noLoopback | neither, hidden},
		{"::1", noLoopback | neither, hidden},

		// Nobody speaks with our own voice, and nobody without a name.
		{"10.0.2.2", always, hidden},
		{"fd00::2", always, hidden},
		{"fe80::2", always, hidden},
		{"fe80::2%eth0", always, hidden},
		{"0.0.0.0", always, hidden},
		{"::", always, hidden},
		{"::ffff:10.0.2.2", always, hidden},
		{"10.0.2.3", open | noLoopback, hidden},
		{"fd00::3", open | noLoopback, hidden},

		// With --disable-dns the guest may address a real 10.0.2.3, and hears it.
		{"10.0.2.3", noDNS | neither, "10.0.2.3"},
		{"fd00::3", noDNS | neither, "fd00::3"},
	}
	rules := testRules(t)
	for _, tt := range tests {
		for config, r := range rules {
			if tt.config&config == 0 {
				continue
			}
			q := reply(netip.MustParseAddr(tt.src))
			want := Decision{}
			if tt.want != hidden {
				want = Decision{Action: Allow, From: netip.AddrPortFrom(netip.MustParseAddr(tt.want), 53), To: q.Dst}
			}
			if diff := cmp.Diff(want, r.Decide(q), compareAddrs()); diff != "" {
				t.Errorf("%s with loopback disabled %v, DNS disabled %v: (-want +got)\n%s",
					tt.src, r.DisableHostLoopback, r.DisableDNS, diff)
			}
		}
	}
	if got := rules[open].Decide(reply(netip.Addr{})); got.Action != Drop {
		t.Error("a sender without an address is shown to the guest")
	}
}

// reply is a datagram that a peer of the host has sent to a mapping of the guest.
func reply(peer netip.Addr) Request {
	guest := netip.MustParseAddrPort("10.0.2.100:4000")
	if peer.Unmap().Is6() {
		guest = netip.MustParseAddrPort("[fd00::64]:4000")
	}
	return Request{Direction: In, Origin: flow.FromGuest, Proto: unix.IPPROTO_UDP, Src: netip.AddrPortFrom(peer, 53), Dst: guest}
}

// A guest that asks from a link-local address asked the gateway's, and is answered
// from there; and no sender is shown to a guest address of the other family.
func TestDecideReplyToGuestAddress(t *testing.T) {
	wantReplies(t, testRules(t)[open], [][3]string{
		{"[::1]:53", "[fd00::64]:4000", "[fd00::2]:53"},
		{"[::1]:53", "[fe80::64]:4000", "[fe80::2]:53"},
		{"[2001:db8::1]:53", "[fe80::64]:4000", "[2001:db8::1]:53"},
		{"127.0.0.1:53", "[fd00::64]:4000", ""},
		{"[::1]:53", "10.0.2.100:4000", ""},
		{"[2001:db8::1]:53", "10.0.2.100:4000", ""},
		{"[::ffff:192.0.2.1]:53", "[fd00::64]:4000", ""},
	})
}

// wantReplies checks as whom the guest sees a sender: rows of the sender, the guest's
// address that it sends to, and whom the guest sees, nobody if empty.
func wantReplies(t *testing.T, r *Rules, rows [][3]string) {
	t.Helper()
	for _, row := range rows {
		q := Request{
			Direction: In, Origin: flow.FromGuest, Proto: unix.IPPROTO_UDP,
			Src: netip.MustParseAddrPort(row[0]), Dst: netip.MustParseAddrPort(row[1]),
		}
		want := Decision{}
		if row[2] != "" {
			want = Decision{Action: Allow, From: netip.MustParseAddrPort(row[2]), To: q.Dst}
		}
		if diff := cmp.Diff(want, r.Decide(q), compareAddrs()); diff != "" {
			t.Errorf("%s to %s: (-want +got)\n%s", row[0], row[1], diff)
		}
	}
}

// TestDecidePublished: a client of a published port reaches the guest's server
// whatever is disabled, under its own address where the guest would send an answer
// to the device, and as the gateway where it would not.
func TestDecidePublished(t *testing.T) {
	for _, tt := range []struct{ client, want string }{
		{"192.0.2.1:5000", "192.0.2.1:5000"},
		{"192.168.1.1:5000", "192.168.1.1:5000"},
		{"169.253.255.255:5000", "169.253.255.255:5000"},
		{"10.0.1.255:5000", "10.0.1.255:5000"},
		{"10.0.3.0:5000", "10.0.3.0:5000"},
		{"[2001:db8::1]:5000", "[2001:db8::1]:5000"},
		{"[fd00:0:0:1::]:5000", "[fd00:0:0:1::]:5000"},

		{"127.0.0.1:5000", "10.0.2.2:5000"},
		{"127.0.0.53:5000", "10.0.2.2:5000"},
		{"0.0.0.0:5000", "10.0.2.2:5000"},
		{"169.254.1.1:5000", "10.0.2.2:5000"},
		{"10.0.2.0:5000", "10.0.2.2:5000"},
		{"10.0.2.2:5000", "10.0.2.2:5000"},
		{"10.0.2.3:5000", "10.0.2.2:5000"},
		{"10.0.2.100:5000", "10.0.2.2:5000"},
		{"10.0.2.255:5000", "10.0.2.2:5000"},
		{"[::1]:5000", "[fd00::2]:5000"},
		{"[::]:5000", "[fd00::2]:5000"},
		{"[fe80::1]:5000", "[fd00::2]:5000"},
		{"[fe80::1%eth0]:5000", "[fd00::2]:5000"},
		{"[fd00::2]:5000", "[fd00::2]:5000"},
		{"[fd00::64]:5000", "[fd00::2]:5000"},
		{"[fd00::ffff:ffff:ffff:ffff]:5000", "[fd00::2]:5000"},
	} {
		for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			q := Request{
				Direction: In, Origin: flow.FromPublished, Proto: proto,
				Src: netip.MustParseAddrPort(tt.client), Dst: netip.MustParseAddrPort("10.0.2.100:80"),
			}
			if q.Src.Addr().Is6() {
				q.Dst = netip.MustParseAddrPort("[fd00::64]:80")
			}
			want := Decision{Action: Allow, From: netip.MustParseAddrPort(tt.want), To: q.Dst}
			for _, r := range testRules(t) {
				if diff := cmp.Diff(want, r.Decide(q), compareAddrs()); diff != "" {
					t.Errorf("%s, loopback disabled %v, DNS disabled %v: (-want +got)\n%s",
						tt.client, r.DisableHostLoopback, r.DisableDNS, diff)
				}
			}
		}
	}
}

// TestDecideLoopbackOnly: a guest without an interface is reached by itself, and by nobody
// else.
func TestDecideLoopbackOnly(t *testing.T) {
	r := Rules{Plan: addressing.NewLoopback(true, true), Splice: true}
	for _, tt := range []struct {
		client, server string
		direct         bool
		to             string // empty: refused
	}{
		{"127.0.0.1:5000", "127.0.0.1:80", true, "127.0.0.1:80"},
		{"[::1]:5000", "[::1]:80", true, "[::1]:80"},
		{"127.0.0.1:5000", "10.89.0.2:80", true, "10.89.0.2:80"},
		{"127.0.0.1:5000", "127.0.0.1:80", false, ""},
		{"192.0.2.1:5000", "127.0.0.1:80", true, ""},
		{"192.0.2.1:5000", "10.89.0.2:80", true, ""},
	} {
		got := r.Decide(Request{
			Direction: In, Origin: flow.FromPublished, Proto: unix.IPPROTO_TCP, Direct: tt.direct,
			Src: netip.MustParseAddrPort(tt.client), Dst: netip.MustParseAddrPort(tt.server),
		})
		want := refuse(unix.ECONNREFUSED)
		if tt.to != "" {
			to := netip.MustParseAddrPort(tt.to)
			want = Decision{Action: Allow, Inside: true, From: netip.AddrPortFrom(to.Addr(), 0), To: to}
		}
		if diff := cmp.Diff(want, got, compareAddrs()); diff != "" {
			t.Errorf("%+v: (-want +got)\n%s", tt, diff)
		}
	}
}

// TestDecideSplice: only where it was asked for, and only within the guest's kernel, is a
// client of the host's loopback the guest itself.
func TestDecideSplice(t *testing.T) {
	for _, tt := range []struct {
		client, server   string
		direct, toLo     bool
		from, to         string
		inside, noSplice bool
	}{
		{client: "127.0.0.1:5000", server: "10.0.2.100:80", direct: true, from: "10.0.2.100:0", to: "10.0.2.100:80", inside: true},
		{client: "[::1]:5000", server: "[fd00::64]:80", direct: true, from: "[fd00::64]:0", to: "[fd00::64]:80", inside: true},
		{client: "[::1]:5000", server: "10.0.2.100:80", direct: true, from: "10.0.2.100:0", to: "10.0.2.100:80", inside: true},
		{client: "127.0.0.1:5000", server: "10.0.2.100:80", direct: true, toLo: true, from: "127.0.0.1:0", to: "127.0.0.1:80", inside: true},
		{client: "[::1]:5000", server: "[fd00::64]:80", direct: true, toLo: true, from: "[::1]:0", to: "[::1]:80", inside: true},
		{client: "127.0.0.1:5000", server: "10.0.2.100:80", from: "10.0.2.2:5000", to: "10.0.2.100:80"},
		{client: "127.0.0.1:5000", server: "10.0.2.100:80", toLo: true, from: "10.0.2.2:5000", to: "10.0.2.100:80"},
		{client: "127.0.0.1:5000", server: "10.0.2.100:80", direct: true, noSplice: true, from: "10.0.2.2:5000", to: "10.0.2.100:80"},
		{client: "192.0.2.1:5000", server: "10.0.2.100:80", direct: true, toLo: true, from: "192.0.2.1:5000", to: "10.0.2.100:80"},
	} {
		for _, r := range testRules(t) {
			r.Splice, r.LoopbackToLoopback = !tt.noSplice, tt.toLo
			got := r.Decide(Request{
				Direction: In, Origin: flow.FromPublished, Proto: unix.IPPROTO_TCP, Direct: tt.direct,
				Src: netip.MustParseAddrPort(tt.client), Dst: netip.MustParseAddrPort(tt.server),
			})
			want := Decision{Action: Allow, From: netip.MustParseAddrPort(tt.from), To: netip.MustParseAddrPort(tt.to), Inside: tt.inside}
			if diff := cmp.Diff(want, got, compareAddrs()); diff != "" {
				t.Errorf("%+v: (-want +got)\n%s", tt, diff)
			}
		}
	}
}

// TestDecideExposed: an exposed port leads to the server that its rule names, whatever is
// disabled, but never to where a host's kernel makes another address of it.
func TestDecideExposed(t *testing.T) {
	for _, tt := range []struct {
		dst  string
		want Decision
	}{
		{"127.0.0.1:5432", allow("127.0.0.1:5432")},
		{"[::1]:5432", allow("[::1]:5432")},
		{"0.0.0.0:5432", refuse(unix.ECONNREFUSED)},
		{"10.0.2.2:5432", allow("10.0.2.2:5432")},
		{"192.0.2.1:5432", allow("192.0.2.1:5432")},
		{"128.0.0.1:5432", allow("128.0.0.1:5432")},
		{"[::]:5432", refuse(unix.ECONNREFUSED)},
		{"[::2]:5432", refuse(unix.ECONNREFUSED)},
		{"[fd00::2]:5432", allow("[fd00::2]:5432")},
		{"[2001:db8::1]:5432", allow("[2001:db8::1]:5432")},
	} {
		for _, r := range testRules(t) {
			q := Request{
				Direction: Out, Origin: flow.FromExposed, Proto: unix.IPPROTO_TCP,
				Src: netip.MustParseAddrPort("127.0.0.1:4000"), Dst: netip.MustParseAddrPort(tt.dst),
			}
			want := tt.want
			if want.Action == Allow {
				want.From = q.Src
			}
			if diff := cmp.Diff(want, r.Decide(q), compareAddrs()); diff != "" {
				t.Errorf("%s, loopback disabled %v, DNS disabled %v: (-want +got)\n%s",
					tt.dst, r.DisableHostLoopback, r.DisableDNS, diff)
			}
		}
	}
}

// Whatever the guest could address and is answered by comes back under the
// address that it used: otherwise its socket would not take the reply.
func TestRepliesInvertRequests(t *testing.T) {
	for _, r := range testRules(t) {
		for _, s := range []string{"93.184.216.34:53", "10.0.2.2:53", "10.0.2.3:53", "[2606:4700::1111]:53", "[fd00::2]:53", "[fd00::3]:53"} {
			dst := netip.MustParseAddrPort(s)
			d := r.Decide(out(unix.IPPROTO_UDP, dst))
			if d.Action != Allow {
				continue
			}
			answer := r.Decide(reply(d.To.Addr()))
			if answer.Action != Allow || answer.From != dst {
				t.Errorf("sent to %v, answered by %v as %v (%v); loopback disabled %v, DNS disabled %v",
					dst, d.To, answer.From, answer.Action, r.DisableHostLoopback, r.DisableDNS)
			}
		}
	}
}

// mayConnect restates the boundary in the kernel's terms: the only loopback
// destination is exactly 127.0.0.1 or ::1, and only what stands for it gets there, but for
// the host's nameserver, which one port of the DNS address leads to.
func mayConnect(r *Rules, dst, to netip.AddrPort) bool {
	a := to.Addr()
	if r.Internal {
		return false
	}
	if r.Plan.Outside && !r.DisableDNS && r.Plan.IsDNS(dst.Addr()) && dst.Port() == 853 {
		return to == netip.AddrPortFrom(r.NameServer(), 853)
	}
	if to.Port() != dst.Port() || !a.IsValid() || a.Is4() != dst.Addr().Is4() {
		return false
	}
	if r.Plan.IsHostAddr(dst.Addr()) {
		return a == r.HostAddr(a.Is6()) && !a.IsLoopback()
	}
	if r.Plan.IsHostLoopback(dst.Addr()) {
		want := netip.IPv6Loopback()
		if dst.Addr().Is4() {
			want = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return !r.DisableHostLoopback && a == want
	}
	if a != dst.Addr() || a.Is4In6() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return false
	}
	if b := a.AsSlice(); len(b) == 4 {
		return b[0] != 0 && b[0] != 127 && b[0] < 224 || b[0] >= 240 && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return a.As16()[0] != 0xff && !a.IsLinkLocalUnicast() && a.Compare(netip.MustParseAddr("::ffff:ffff")) > 0
}

// mayReachGroup restates that where the host's neighbours are the guest's, datagrams for
// several machines leave as they are, but for requests for a lease.
func mayReachGroup(r *Rules, proto uint8, dst, to netip.AddrPort) bool {
	a := dst.Addr()
	return r.Plan.Outside && !r.Internal && proto == unix.IPPROTO_UDP && to == dst && dst.Port() != 67 && dst.Port() != 547 &&
		(a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || a.Is4() && a.IsMulticast() || a.Is6() && a.As16()[0] == 0xff && a.As16()[1]&0xf > 1)
}

// FuzzDecide looks for a destination that slips through.
func FuzzDecide(f *testing.F) {
	for _, s := range []string{
		"127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "10.0.2.2", "10.0.2.3", "10.0.2.100", "8.8.8.8",
		"::", "::1", "::2", "::ffff:127.0.0.1", "::127.0.0.1", "fe80::2", "fe80::3", "fd00::2", "fd00::3", "ff02::1", "ff02::1:2", "2001:db8::1",
		"10.90.0.1", "10.90.0.2", "fd90::1", "fe80::1",
		"192.0.2.1", "192.0.2.10", "169.254.1.1", "169.254.1.2", "fe80::2:1", "fc00::2", "fc00::53",
	} {
		for _, port := range []uint16{0, 53, 67, 80, 547, 853} {
			f.Add(netip.MustParseAddr(s).AsSlice(), port, uint8(unix.IPPROTO_UDP))
		}
	}
	rules := everyRules(f)
	f.Fuzz(func(t *testing.T, b []byte, port uint16, proto uint8) {
		a, _ := netip.AddrFromSlice(b)
		checkBoundary(t, rules, proto, netip.AddrPortFrom(a, port))
	})
}

func checkBoundary(t *testing.T, rules []*Rules, proto uint8, dst netip.AddrPort) {
	t.Helper()
	for _, r := range rules {
		if d := r.Decide(out(proto, dst)); d.Action == Allow && !mayConnect(r, dst, d.To) && !mayReachGroup(r, proto, dst, d.To) {
			t.Errorf("protocol %d to %v connects to %v (%+v)", proto, dst, d.To, r)
		}
	}
}

// TestB40_EveryFirstByte walks the boundary where it is cut: every first byte of
// IPv4 with ends of the range, and every address a few bits from the special
// ones of IPv6.
func TestB40_EveryFirstByte(t *testing.T) {
	rules := everyRules(t)
	protos := []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, 132}
	for first := range 256 {
		for _, rest := range [][3]byte{{}, {0, 0, 1}, {0, 2, 2}, {0, 2, 3}, {0, 2, 255}, {90, 0, 1}, {90, 0, 2}, {0, 2, 1}, {0, 2, 10}, {254, 1, 1}, {254, 1, 2}, {255, 255, 255}} {
			for _, port := range []uint16{0, 53, 67, 80, 853} {
				for _, proto := range protos {
					dst := netip.AddrFrom4([4]byte{byte(first), rest[0], rest[1], rest[2]})
					checkBoundary(t, rules, proto, netip.AddrPortFrom(dst, port))
				}
			}
		}
	}
	for _, s := range []string{"::", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "fe80::2", "fd00::2", "fd00::3", "fd90::1", "ff02::1:2", "fe80::2:1", "fc00::2", "fc00::53"} {
		base := netip.MustParseAddr(s).As16()
		for i := range 128 {
			for j := range i + 1 { // two bits, or none
				b := base
				b[i/8] ^= 1 << (i % 8)
				b[j/8] ^= 1 << (j % 8)
				for _, proto := range protos[:2] {
					checkBoundary(t, rules, proto, netip.AddrPortFrom(netip.AddrFrom16(b), 547))
				}
			}
		}
	}
}

// Each datagram is asked about, so an answer costs nothing that is to be collected.
func TestDecideAllocatesNothing(t *testing.T) {
	var d Decider = testRules(t)[open]
	requests := []Request{
		out(unix.IPPROTO_UDP, netip.MustParseAddrPort("192.0.2.1:443")),
		out(unix.IPPROTO_UDP, netip.MustParseAddrPort("[fd00::2]:443")),
		reply(netip.MustParseAddr("127.0.0.1")),
		{Direction: In, Origin: flow.FromPublished, Proto: unix.IPPROTO_UDP, Src: netip.MustParseAddrPort("127.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.2.100:80")},
	}
	copied := copiedRules(t)
	asked := reply(netip.MustParseAddr("192.0.2.10"))
	asked.Asked = netip.MustParseAddr("169.254.1.2")
	more := append(requests[:len(requests):len(requests)], asked)
	ask := func() {
		for _, q := range more {
			if copied.Decide(q).Action != Allow {
				t.Errorf("%+v is not allowed to a guest with the host's addresses", q)
			}
		}
		for _, q := range requests {
			if d.Decide(q).Action != Allow {
				t.Errorf("%+v is not allowed", q)
			}
		}
	}
	if n := testing.AllocsPerRun(100, ask); n > 0 {
		t.Errorf("%d requests take %v allocations", len(requests), n)
	}
}
