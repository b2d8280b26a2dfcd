package policy

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/flow"
)

// copiedRules are those of a guest that has the host's addresses, of a host with a stub
// resolver.
func copiedRules(t testing.TB) *Rules {
	return &Rules{
		Plan:       addressingtest.Copied(t),
		HostAddr:   hostAddrs("192.0.2.10", "2001:db8:1::10"),
		NameServer: func() netip.Addr { return netip.MustParseAddr("127.0.0.53") },
	}
}

// hostAddrs are the host's main addresses; "" is none.
func hostAddrs(v4, v6 string) func(bool) netip.Addr {
	a4, _ := netip.ParseAddr(v4)
	a6, _ := netip.ParseAddr(v6)
	return func(six bool) netip.Addr {
		if six {
			return a6
		}
		return a4
	}
}

// plainRules are those of podman's guests: nothing stands for the host's loopback.
func plainRules(t testing.TB) *Rules {
	t.Helper()
	p, err := addressing.NewCopied(addressing.Copied{
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8:1::10/64")},
		Gateway:   netip.MustParseAddr("192.0.2.1"), Gateway6: netip.MustParseAddr("fe80::2:1"), NoMapGateway: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := copiedRules(t)
	r.Plan = p
	return r
}

// TestDecideCopied is TestDecide for a guest that has the host's addresses: all is
// outside but what stands for the host, and two ports of the DNS address.
func TestDecideCopied(t *testing.T) {
	drop, dns, dhcp, dhcp6 := Decision{}, Decision{Action: ServeDNS}, Decision{Action: ServeDHCP}, Decision{Action: ServeDHCP6}
	unreachable := refuse(unix.ENETUNREACH)
	const tcpUDP = tcp | udp
	for _, tt := range []struct {
		dst          string
		proto        int
		mapped, none Decision // with all that may stand for something, and with nothing
	}{
		// Outside, the guest's subnets and the host's addresses among it.
		{"93.184.216.34:80", all, allow("93.184.216.34:80"), allow("93.184.216.34:80")},
		{"192.0.2.77:80", all, allow("192.0.2.77:80"), allow("192.0.2.77:80")},
		{"192.0.2.255:80", all, allow("192.0.2.255:80"), allow("192.0.2.255:80")},
		{"192.0.2.10:80", all, allow("192.0.2.10:80"), allow("192.0.2.10:80")}, // the guest has given itself another
		{"198.51.100.11:80", all, allow("198.51.100.11:80"), allow("198.51.100.11:80")},
		{"169.254.169.254:80", all, allow("169.254.169.254:80"), allow("169.254.169.254:80")},
		{"10.0.2.2:80", all, allow("10.0.2.2:80"), allow("10.0.2.2:80")},
		{"10.0.2.3:53", all, allow("10.0.2.3:53"), allow("10.0.2.3:53")},
		{"[2001:db8:1::77]:80", all, allow("[2001:db8:1::77]:80"), allow("[2001:db8:1::77]:80")},
		{"[2001:db8:2::11]:80", all, allow("[2001:db8:2::11]:80"), allow("[2001:db8:2::11]:80")},

		// The gateway is the host's loopback, or the machine that it is.
		{"192.0.2.1:80", all, allow("127.0.0.1:80"), allow("192.0.2.1:80")},
		{"192.0.2.1:53", all, allow("127.0.0.1:53"), allow("192.0.2.1:53")},
		{"192.0.2.1:67", udp, dhcp, dhcp},
		{"192.0.2.1:67", tcp, allow("127.0.0.1:67"), allow("192.0.2.1:67")},
		{"192.0.2.1:547", udp, allow("127.0.0.1:547"), allow("192.0.2.1:547")},
		{"[fe80::2:1]:80", all, allow("[::1]:80"), unreachable},
		{"[fe80::2:1]:547", udp, dhcp6, dhcp6},
		{"[fe80::2:1]:547", tcp, allow("[::1]:547"), unreachable},

		// What stands for the host's address, never for its loopback.
		{"169.254.1.2:80", all, allow("192.0.2.10:80"), allow("169.254.1.2:80")},
		{"169.254.1.2:53", all, allow("192.0.2.10:53"), allow("169.254.1.2:53")},
		{"[fc00::2]:80", all, allow("[2001:db8:1::10]:80"), allow("[fc00::2]:80")},

		// DNS, on two ports.
		{"169.254.1.1:53", tcpUDP, dns, allow("169.254.1.1:53")},
		{"[fc00::53]:53", tcpUDP, dns, allow("[fc00::53]:53")},
		{"169.254.1.1:853", tcpUDP, allow("127.0.0.53:853"), allow("169.254.1.1:853")},
		{"[fc00::53]:853", tcp, allow("127.0.0.53:853"), allow("[fc00::53]:853")},
		{"[fc00::53]:853", udp, unreachable, allow("[fc00::53]:853")},
		{"169.254.1.1:80", tcpUDP, allow("169.254.1.1:80"), allow("169.254.1.1:80")},
		{"169.254.1.1:0", echo, allow("169.254.1.1:0"), allow("169.254.1.1:0")},
		{"[fc00::53]:443", tcpUDP, allow("[fc00::53]:443"), allow("[fc00::53]:443")},

		// Leases.
		{"255.255.255.255:67", udp, dhcp, dhcp},
		{"[ff02::1:2]:547", udp, dhcp6, dhcp6},
		{"192.0.2.255:67", udp, allow("192.0.2.255:67"), allow("192.0.2.255:67")},

		// Datagrams for many machines are for the host's neighbours.
		{"255.255.255.255:80", tcp | echo, drop, drop},
		{"255.255.255.255:80", udp, allow("255.255.255.255:80"), allow("255.255.255.255:80")},
		{"224.0.0.251:5353", tcp | echo, drop, drop},
		{"224.0.0.251:5353", udp, allow("224.0.0.251:5353"), allow("224.0.0.251:5353")},
		{"224.0.0.251:67", udp, drop, drop},
		{"[ff02::fb]:5353", tcp | echo, drop, drop},
		{"[ff02::fb]:5353", udp, allow("[ff02::fb]:5353"), allow("[ff02::fb]:5353")},
		{"[ff02::fb]:547", udp, drop, drop},
		{"[ff01::1]:80", all, drop, drop},

		// What a kernel would take for this machine, as everywhere.
		{"127.0.0.1:80", all, drop, drop},
		{"127.0.0.53:53", all, drop, drop},
		{"127.0.0.53:853", all, drop, drop},
		{"0.0.0.0:80", all, drop, drop},
		{"0.0.0.1:80", all, drop, drop},
		{"[::]:80", all, drop, drop},
		{"[::1]:80", all, drop, drop},
		{"[::127.0.0.1]:80", all, drop, drop},
		{"[::ffff:127.0.0.1]:80", all, drop, drop},
		{"[::ffff:192.0.2.1]:80", all, drop, drop},
		{"[::ffff:169.254.1.2]:80", all, drop, drop},
		{"[::ffff:169.254.1.1]:53", all, drop, drop},
		{"[fe80::1]:80", all, drop, drop},
		{"[fe80::2]:80", all, drop, drop},
	} {
		for bit, protos := range map[int][2]uint8{
			tcp: {unix.IPPROTO_TCP, unix.IPPROTO_TCP}, udp: {unix.IPPROTO_UDP, unix.IPPROTO_UDP}, echo: {unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6},
		} {
			if tt.proto&bit == 0 {
				continue
			}
			dst, proto := netip.MustParseAddrPort(tt.dst), protos[0]
			if dst.Addr().Is6() {
				proto = protos[1]
			}
			for name, c := range map[string]struct {
				rules *Rules
				want  Decision
			}{"mapped": {copiedRules(t), tt.mapped}, "nothing mapped": {plainRules(t), tt.none}} {
				want := c.want
				if bit == echo { // has no ports
					dst, want.To = netip.AddrPortFrom(dst.Addr(), 0), netip.AddrPortFrom(want.To.Addr(), 0)
					if want.Action != Allow {
						want.To = netip.AddrPort{}
					}
				}
				if diff := cmp.Diff(want, c.rules.Decide(out(proto, dst)), compareAddrs()); diff != "" {
					t.Errorf("%s: protocol %d to %v: (-want +got)\n%s", name, proto, dst, diff)
				}
			}
		}
	}
}

// The host's address and its nameserver are those of the moment. Where there is none, or
// what cannot be one, nothing is reached.
func TestDecideFollowsTheHost(t *testing.T) {
	r := copiedRules(t)
	for _, tt := range []struct {
		v4, v6  string
		want    Decision // to 169.254.1.2
		want6   Decision // to fc00::2
		server  string
		wantDoT Decision // to 169.254.1.1:853 by TCP
		wantDoQ Decision // by UDP
	}{
		{"192.0.2.10", "2001:db8:1::10", allow("192.0.2.10:80"), allow("[2001:db8:1::10]:80"), "9.9.9.9", allow("9.9.9.9:853"), allow("9.9.9.9:853")},
		{"203.0.113.5", "2001:db8:5::5", allow("203.0.113.5:80"), allow("[2001:db8:5::5]:80"), "2620:fe::fe", allow("[2620:fe::fe]:853"), refuse(unix.ENETUNREACH)},
		{"", "", refuse(unix.ENETUNREACH), refuse(unix.ENETUNREACH), "", refuse(unix.ENETUNREACH), refuse(unix.ENETUNREACH)},
		{"127.0.0.1", "::1", refuse(unix.ENETUNREACH), refuse(unix.ENETUNREACH), "::1", allow("[::1]:853"), refuse(unix.ENETUNREACH)},
		{"2001:db8::1", "192.0.2.1", refuse(unix.ENETUNREACH), refuse(unix.ENETUNREACH), "127.0.0.1", allow("127.0.0.1:853"), allow("127.0.0.1:853")},
	} {
		r.HostAddr = hostAddrs(tt.v4, tt.v6)
		r.NameServer = func() netip.Addr { a, _ := netip.ParseAddr(tt.server); return a }
		for dst, want := range map[string]Decision{"169.254.1.2:80": tt.want, "[fc00::2]:80": tt.want6, "169.254.1.1:853": tt.wantDoT} {
			if diff := cmp.Diff(want, r.Decide(out(unix.IPPROTO_TCP, netip.MustParseAddrPort(dst))), compareAddrs()); diff != "" {
				t.Errorf("%+v: TCP to %s: (-want +got)\n%s", tt, dst, diff)
			}
		}
		if diff := cmp.Diff(tt.wantDoQ, r.Decide(out(unix.IPPROTO_UDP, netip.MustParseAddrPort("169.254.1.1:853"))), compareAddrs()); diff != "" {
			t.Errorf("%+v: UDP to port 853: (-want +got)\n%s", tt, diff)
		}
	}
	r.HostAddr, r.NameServer = nil, nil
	for _, dst := range []string{"169.254.1.2:80", "[fc00::2]:80", "169.254.1.1:853"} {
		if got := r.Decide(out(unix.IPPROTO_TCP, netip.MustParseAddrPort(dst))); got.Action != Refuse || got.Errno != unix.ENETUNREACH {
			t.Errorf("nobody knows the host: %s: %+v", dst, got)
		}
	}
}

// What is switched off is not served, and leaves its port to who is there.
func TestDecideSwitchedOff(t *testing.T) {
	at := netip.MustParseAddrPort
	dhcp := out(unix.IPPROTO_UDP, at("255.255.255.255:67"))
	for name, tt := range map[string]struct {
		set  func(*Rules)
		ask  Request
		want Decision
	}{
		"DNS":              {func(r *Rules) { r.DisableDNS = true }, out(unix.IPPROTO_UDP, at("169.254.1.1:53")), allow("169.254.1.1:53")},
		"DNS over TLS":     {func(r *Rules) { r.DisableDNS = true }, out(unix.IPPROTO_TCP, at("169.254.1.1:853")), allow("169.254.1.1:853")},
		"loopback":         {func(r *Rules) { r.DisableHostLoopback = true }, out(unix.IPPROTO_TCP, at("192.0.2.1:80")), refuse(unix.ENETUNREACH)},
		"DHCP":             {func(r *Rules) { r.DisableDHCP = true }, dhcp, Decision{}},
		"DHCP by unicast":  {func(r *Rules) { r.DisableDHCP = true }, out(unix.IPPROTO_UDP, at("192.0.2.1:67")), allow("127.0.0.1:67")},
		"DHCPv6":           {func(r *Rules) { r.DisableDHCP6 = true }, out(unix.IPPROTO_UDP, at("[ff02::1:2]:547")), Decision{}},
		"TCP":              {func(r *Rules) { r.DisableTCP = true }, out(unix.IPPROTO_TCP, at("9.9.9.9:80")), Decision{}},
		"UDP":              {func(r *Rules) { r.DisableUDP = true }, out(unix.IPPROTO_UDP, at("9.9.9.9:80")), Decision{}},
		"UDP, but DHCP":    {func(r *Rules) { r.DisableUDP = true }, dhcp, Decision{Action: ServeDHCP}},
		"DNS without UDP":  {func(r *Rules) { r.DisableUDP = true }, out(unix.IPPROTO_UDP, at("169.254.1.1:53")), Decision{}},
		"ping":             {func(r *Rules) { r.DisableICMP = true }, out(unix.IPPROTO_ICMP, at("9.9.9.9:0")), Decision{}},
		"ping6":            {func(r *Rules) { r.DisableICMP = true }, out(unix.IPPROTO_ICMPV6, at("[2001:db8::1]:0")), Decision{}},
		"TCP, but UDP":     {func(r *Rules) { r.DisableTCP = true }, out(unix.IPPROTO_UDP, at("9.9.9.9:80")), allow("9.9.9.9:80")},
		"published TCP":    {func(r *Rules) { r.DisableTCP = true }, published("9.9.9.9:5", "192.0.2.10:80"), refuse(unix.ECONNREFUSED)},
		"UDP, but pub TCP": {func(r *Rules) { r.DisableUDP = true }, published("9.9.9.9:5", "192.0.2.10:80"), seen("9.9.9.9:5", "192.0.2.10:80")},
	} {
		r := copiedRules(t)
		tt.set(r)
		if diff := cmp.Diff(tt.want, r.Decide(tt.ask), compareAddrs()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func published(client, server string) Request {
	return Request{
		Direction: In, Origin: flow.FromPublished, Proto: unix.IPPROTO_TCP,
		Src: netip.MustParseAddrPort(client), Dst: netip.MustParseAddrPort(server),
	}
}

func seen(from, to string) Decision {
	return Decision{Action: Allow, From: netip.MustParseAddrPort(from), To: netip.MustParseAddrPort(to)}
}

// The sender of a reply is who the guest asked, and nobody else has a name of ours.
func TestDecideCopiedReply(t *testing.T) {
	wantReplies(t, copiedRules(t), [][3]string{
		{"93.184.216.34:53", "192.0.2.10:4000", "93.184.216.34:53"},
		{"192.0.2.77:53", "192.0.2.10:4000", "192.0.2.77:53"},
		{"169.254.169.254:80", "192.0.2.10:4000", "169.254.169.254:80"},
		{"127.0.0.1:80", "192.0.2.10:4000", "192.0.2.1:80"},
		{"127.0.0.53:80", "192.0.2.10:4000", "192.0.2.1:80"},
		{"[::1]:80", "[2001:db8:1::10]:4000", "[fe80::2:1]:80"},
		// The host's own address, which is the guest's, too.
		{"192.0.2.10:80", "192.0.2.10:4000", "169.254.1.2:80"},
		{"198.51.100.10:80", "192.0.2.10:4000", "169.254.1.2:80"},
		{"[2001:db8:1::10]:80", "[2001:db8:1::10]:4000", "[fc00::2]:80"},
		// Who has an address by which the guest knows the host, or the resolver.
		{"192.0.2.1:80", "192.0.2.10:4000", ""},
		{"169.254.1.2:80", "192.0.2.10:4000", ""},
		{"[fc00::2]:80", "[2001:db8:1::10]:4000", ""},
		{"169.254.1.1:53", "192.0.2.10:4000", ""},
		{"169.254.1.1:853", "192.0.2.10:4000", ""},
		{"169.254.1.1:80", "192.0.2.10:4000", "169.254.1.1:80"},
		{"[fe80::2:1]:80", "[2001:db8:1::10]:4000", ""},
		{"0.0.0.0:80", "192.0.2.10:4000", ""},
		{"[2001:db8::1]:80", "192.0.2.10:4000", ""},
	})
	wantReplies(t, plainRules(t), [][3]string{
		{"127.0.0.1:80", "192.0.2.10:4000", ""},
		{"[::1]:80", "[2001:db8:1::10]:4000", ""},
		{"192.0.2.1:80", "192.0.2.10:4000", "192.0.2.1:80"},
		{"192.0.2.10:80", "192.0.2.10:4000", "192.0.2.10:80"},
		{"169.254.1.2:80", "192.0.2.10:4000", "169.254.1.2:80"},
		{"169.254.1.1:53", "192.0.2.10:4000", "169.254.1.1:53"},
	})
}

// An answer comes from the address that was asked, if asking it still leads to whoever
// answers: the host's address may be asked by its own name as well, may be another by
// now, and may have two names.
func TestDecideReplyToWhatWasAsked(t *testing.T) {
	r := copiedRules(t)
	p := &r.Plan
	p.HostAddrs = append(p.HostAddrs, netip.MustParseAddr("169.254.1.9"))
	r.HostAddr = hostAddrs("203.0.113.5", "2001:db8:5::5")
	for _, tt := range []struct{ src, asked, want string }{
		{"203.0.113.5:80", "", "203.0.113.5:80"},
		{"203.0.113.5:80", "169.254.1.2", "169.254.1.2:80"},
		{"203.0.113.5:80", "169.254.1.9", "169.254.1.9:80"},
		{"192.0.2.10:80", "169.254.1.9", "169.254.1.2:80"}, // the host's address before
		{"203.0.113.6:80", "169.254.1.9", "203.0.113.6:80"},
		{"127.0.0.1:80", "192.0.2.1", "192.0.2.1:80"},
		{"127.0.0.1:80", "169.254.1.2", "192.0.2.1:80"},
		{"127.0.0.53:853", "169.254.1.1", "169.254.1.1:853"},
		{"127.0.0.53:80", "169.254.1.1", "192.0.2.1:80"},
	} {
		q := reply(netip.MustParseAddrPort(tt.src).Addr())
		q.Src = netip.MustParseAddrPort(tt.src)
		q.Dst = netip.MustParseAddrPort("192.0.2.10:4000")
		q.Asked, _ = netip.ParseAddr(tt.asked)
		if diff := cmp.Diff(seen(tt.want, "192.0.2.10:4000"), r.Decide(q), compareAddrs()); diff != "" {
			t.Errorf("%s answers what was asked of %q: (-want +got)\n%s", tt.src, tt.asked, diff)
		}
	}
}

// Clients of published ports keep their address, but for those whom the guest could not
// answer.
func TestDecideCopiedPublished(t *testing.T) {
	const v4, v6 = "192.0.2.10:80", "[2001:db8:1::10]:80"
	moved := copiedRules(t)
	moved.HostAddr = hostAddrs("203.0.113.5", "2001:db8:5::5")
	for _, tt := range []struct{ client, server, mapped, none string }{
		{"93.184.216.34:5000", v4, "93.184.216.34:5000", "93.184.216.34:5000"},
		{"192.0.2.77:5000", v4, "192.0.2.77:5000", "192.0.2.77:5000"},
		{"192.0.2.1:5000", v4, "192.0.2.1:5000", "192.0.2.1:5000"},
		{"169.254.9.9:5000", v4, "169.254.9.9:5000", "169.254.9.9:5000"},
		{"[2001:db8:1::77]:5000", v6, "[2001:db8:1::77]:5000", "[2001:db8:1::77]:5000"},

		{"127.0.0.1:5000", v4, "192.0.2.1:5000", "192.0.2.1:5000"},
		{"[::ffff:127.0.0.1]:5000", v4, "192.0.2.1:5000", "192.0.2.1:5000"},
		{"[::1]:5000", v6, "[fe80::2:1]:5000", "[fe80::2:1]:5000"},
		{"192.0.2.10:5000", v4, "169.254.1.2:5000", "192.0.2.1:5000"},
		{"198.51.100.10:5000", v4, "169.254.1.2:5000", "198.51.100.10:5000"}, // which the other guest has not
		{"[2001:db8:1::10]:5000", v6, "[fc00::2]:5000", "[fe80::2:1]:5000"},
		{"0.0.0.0:5000", v4, "192.0.2.1:5000", "192.0.2.1:5000"},
		{"[fe80::77%eth0]:5000", v6, "[fe80::2:1]:5000", "[fe80::2:1]:5000"},

		// A guest that has given itself another address.
		{"10.7.7.7:5000", "10.7.7.7:80", "169.254.1.2:5000", "192.0.2.1:5000"},
		// Across families.
		{"[2001:db8:9::1]:5000", v4, "192.0.2.1:5000", "192.0.2.1:5000"},
		{"93.184.216.34:5000", v6, "[fe80::2:1]:5000", "[fe80::2:1]:5000"},
	} {
		for name, c := range map[string]struct {
			rules *Rules
			want  string
		}{"mapped": {copiedRules(t), tt.mapped}, "nothing mapped": {plainRules(t), tt.none}} {
			if diff := cmp.Diff(seen(c.want, tt.server), c.rules.Decide(published(tt.client, tt.server)), compareAddrs()); diff != "" {
				t.Errorf("%s: %s to %s: (-want +got)\n%s", name, tt.client, tt.server, diff)
			}
		}
	}
	for client, want := range map[string]string{"203.0.113.5:5": "169.254.1.2:5", "192.0.2.10:5": "169.254.1.2:5", "203.0.113.6:5": "203.0.113.6:5"} {
		if diff := cmp.Diff(seen(want, v4), moved.Decide(published(client, v4)), compareAddrs()); diff != "" {
			t.Errorf("the host has moved: %s: (-want +got)\n%s", client, diff)
		}
	}
}
