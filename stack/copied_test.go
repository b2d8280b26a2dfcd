package stack_test

import (
	"bytes"
	"net/netip"
	"testing"

	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// newCopiedSeam is the stack of a guest that has the host's addresses.
func newCopiedSeam(t *testing.T) *seam {
	p := addressingtest.Copied(t)
	return newSeam(t, seamConfig{plan: &p})
}

// The guest's subnets lie outside, so everybody in them is behind us, but not what the
// guest has itself, passes on, or only asks about to take it (RFC 5227).
func TestARPIsAnsweredForOutside(t *testing.T) {
	a := netip.MustParseAddr
	me, zero := a("192.0.2.10"), netip.IPv4Unspecified()
	ask := func(sender, target netip.Addr) []byte {
		return testnet.ARP(1, testnet.GuestMAC(), sender, [6]byte{}, target)
	}
	s := newCopiedSeam(t)
	for _, target := range []string{"192.0.2.1", "192.0.2.77", "192.0.2.255", "198.51.100.11", "10.0.2.3", "169.254.1.1", "169.254.1.2", "8.8.8.8"} {
		sent := s.feed(ask(me, a(target)))
		want := testnet.ARP(2, addressing.CopiedMAC(), a(target), testnet.GuestMAC(), me)
		if len(sent) != 1 || !bytes.Equal(sent[0].Payload, want[14:]) || sent[0].SrcMAC != addressing.CopiedMAC() {
			t.Errorf("ARP for %s: sent %+v", target, sent)
		}
	}
	for name, frame := range map[string][]byte{
		"its own address":              ask(me, me),
		"its other address":            ask(me, a("198.51.100.10")),
		"its address, to take it":      ask(zero, me),
		"a neighbour's, to take it":    ask(zero, a("192.0.2.77")),
		"an announcement":              ask(a("192.0.2.77"), a("192.0.2.77")),
		"a group's":                    ask(me, a("224.0.0.1")),
		"loopback":                     ask(me, a("127.0.0.1")),
		"nobody's":                     ask(me, zero),
		"in our own name":              ask(a("192.0.2.1"), a("192.0.2.77")),
		"in the name of the host":      ask(a("169.254.1.2"), a("192.0.2.77")),
		"in the name of the resolver":  ask(a("169.254.1.1"), a("192.0.2.77")),
		"broadcast":                    ask(me, stack.LimitedBroadcast()),
		"an address that is not known": testnet.ARP(2, testnet.GuestMAC(), me, [6]byte{}, a("192.0.2.77")),
	} {
		s.silent(name, frame)
	}
	for _, ours := range []string{"192.0.2.1", "169.254.1.1", "169.254.1.2"} {
		if sent := s.feed(ask(zero, a(ours))); len(sent) != 1 {
			t.Errorf("a probe of our %s had %d answers, want 1", ours, len(sent))
		}
	}
	// A container that is bridged onto the TAP.
	inside := ask(a("192.0.2.88"), a("192.0.2.1"))
	inside[11], inside[14+8+5] = 0x99, 0x99
	s.feed(inside)
	s.silent("a neighbour behind the guest", ask(me, a("192.0.2.88")))
	// The guest has chosen another address, which is its own from now on.
	s.feed(ask(a("192.0.2.50"), a("192.0.2.1")))
	bridged := ask(a("192.0.2.88"), a("192.0.2.50"))
	bridged[11], bridged[14+8+5] = 0x99, 0x99
	s.silent("the address that it has chosen", bridged)
	if s.handled() > 0 {
		t.Error("ARP reached the handler")
	}
}

func TestNeighborSolicitationIsAnsweredForOutside(t *testing.T) {
	a := netip.MustParseAddr
	me := a("2001:db8:1::10")
	s := newCopiedSeam(t)
	for target, router := range map[string]bool{
		"2001:db8:1::77": false, "2001:db8:9::1": false, "fe80::2:1": true, "fc00::2": false, "fc00::53": false,
	} {
		sent := s.feed(solicit(me, a(target), 1, 1, 2, 0, 0, 0, 0, 0x64))
		if len(sent) != 1 || sent[0].Src != a(target) || sent[0].Dst != me || (sent[0].Payload[4]&0x80 != 0) != router {
			t.Errorf("%s: sent %+v", target, sent)
		}
	}
	for name, frame := range map[string][]byte{
		"its own address":       solicit(a("fe80::64"), me),
		"its other address":     solicit(me, a("2001:db8:2::10")),
		"to take its own":       solicit(netip.IPv6Unspecified(), me),
		"to take a neighbour's": solicit(netip.IPv6Unspecified(), a("2001:db8:1::78")),
		"another link-local":    solicit(me, a("fe80::77")),
		"loopback":              solicit(me, netip.IPv6Loopback()),
		"an IPv4 address":       solicit(me, a("::ffff:192.0.2.1")),
	} {
		s.silent(name, frame)
	}
	if sent := s.feed(solicit(netip.IPv6Unspecified(), a("fe80::2:1"))); len(sent) != 1 || sent[0].Dst != netip.IPv6LinkLocalAllNodes() {
		t.Errorf("to take the router's: sent %+v", sent)
	}
}

// The address of a guest that may choose is the one that it last spoke of.
func TestCopiedGuestAddr(t *testing.T) {
	a := netip.MustParseAddr
	s := newCopiedSeam(t)
	check := func(when, v4, v6 string) {
		t.Helper()
		if got4, got6 := s.stack.GuestAddr4(), s.stack.GuestAddr6(); got4 != a(v4) || got6 != a(v6) {
			t.Errorf("%s the guest has %v and %v, want %s and %s", when, got4, got6, v4, v6)
		}
	}
	check("before it speaks", "192.0.2.10", "2001:db8:1::10")
	s.feed(testnet.ARP(1, testnet.GuestMAC(), a("10.7.7.7"), [6]byte{}, a("192.0.2.1")), solicit(a("2001:db8:7::7"), a("fe80::2:1")))
	check("when it has chosen", "10.7.7.7", "2001:db8:7::7")
	s.feed(testnet.UDP(netip.MustParseAddrPort("10.8.8.8:9"), remote4, testnet.TTL, nil), solicit(a("fe80::64"), a("fe80::2:1")))
	for _, bad := range []string{"192.0.2.1", "169.254.1.2", "169.254.1.1", "0.0.0.0", "127.0.0.1", "224.0.0.1"} {
		s.feed(testnet.ARP(1, testnet.GuestMAC(), a(bad), [6]byte{}, a("192.0.2.1")))
	}
	other := testnet.ARP(1, [6]byte{2, 0, 0, 0, 0, 0x99}, a("10.9.9.9"), [6]byte{}, a("192.0.2.1"))
	s.feed(other, solicit(netip.IPv6Unspecified(), a("fc00::2")), from(0x99, solicit(a("2001:db8:9::9"), a("fe80::2:1"))))
	check("after what says nothing of it", "10.7.7.7", "2001:db8:7::7")
	s.feed(testnet.ARP(1, testnet.GuestMAC(), a("192.0.2.10"), [6]byte{}, a("192.0.2.1")), solicit(netip.IPv6Unspecified(), a("2001:db8:1::10")))
	check("when it has come back", "192.0.2.10", "2001:db8:1::10")
}

// A router that has a global address keeps it, whoever claims it, although it stands for
// nothing of the host's.
func TestCopiedGuestAddrIsNotTheRouters(t *testing.T) {
	router := netip.MustParseAddr("2001:db8:1::1")
	p, err := addressing.NewCopied(addressing.Copied{
		Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::10/64")}, Gateway6: router, NoMapGateway: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := newSeam(t, seamConfig{plan: &p})
	s.feed(solicit(netip.IPv6Unspecified(), router))
	if got := s.stack.GuestAddr6(); got != p.Guest6 {
		t.Errorf("the guest has %v, want %v", got, p.Guest6)
	}
}

// TestCopiedGuestAddrIsSet: an address that was set stays, although the guest's kernel speaks
// in ARP of another interface's.
func TestCopiedGuestAddrIsSet(t *testing.T) {
	a := netip.MustParseAddr
	p := addressingtest.Copied(t)
	s := newSeam(t, seamConfig{plan: &p, guest4: p.Guest, guest6: p.Guest6})
	s.feed(testnet.ARP(1, testnet.GuestMAC(), a("10.7.7.7"), [6]byte{}, a("192.0.2.1")), solicit(a("2001:db8:7::7"), a("fe80::2:1")))
	if v4, v6 := s.stack.GuestAddr4(), s.stack.GuestAddr6(); v4 != p.Guest || v6 != p.Guest6 {
		t.Errorf("the guest has %v and %v", v4, v6)
	}
}

// A family that is off is not answered, and errors come from the router of the family.
func TestOneFamily(t *testing.T) {
	a, pre := netip.MustParseAddr, netip.MustParsePrefix
	for name, tt := range map[string]struct {
		copied   addressing.Copied
		off      [][]byte
		src, dst string
		router   string
	}{
		"IPv6 alone": {
			addressing.Copied{Addresses: []netip.Prefix{pre("fc00::3/64")}, Gateway6: a("fc00::1")},
			[][]byte{
				testnet.ARP(1, testnet.GuestMAC(), a("10.0.2.100"), [6]byte{}, a("192.0.2.1")),
				testnet.UDP(guest4, remote4, testnet.TTL, nil), testnet.Echo(guest4.Addr(), a("192.0.2.1"), 1, 1, 64, nil),
			}, "[fc00::3]:9", "[2001:db8::1]:9", "fc00::1",
		},
		"IPv4 alone": {
			addressing.Copied{Addresses: []netip.Prefix{pre("192.0.2.10/24")}, Gateway: a("192.0.2.1")},
			[][]byte{testnet.UDP(guest6, remote6, testnet.TTL, nil), solicit(guest6.Addr(), a("2001:db8::1"))},
			"192.0.2.10:9", "203.0.113.1:9", "192.0.2.1",
		},
	} {
		p, err := addressing.NewCopied(tt.copied)
		if err != nil {
			t.Fatal(err)
		}
		s := newSeam(t, seamConfig{plan: &p})
		for i, frame := range tt.off {
			s.silent(name, frame)
			if s.handled() > 0 {
				t.Fatalf("%s: frame %d reached the handler", name, i)
			}
		}
		sent := s.feed(testnet.UDP(netip.MustParseAddrPort(tt.src), netip.MustParseAddrPort(tt.dst), 1, nil))
		if len(sent) != 1 || sent[0].Src != a(tt.router) {
			t.Errorf("%s: a hop limit of 1 is answered by %+v", name, sent)
		}
	}
}
