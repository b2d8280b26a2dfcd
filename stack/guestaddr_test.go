package stack_test

import (
	"net/netip"
	"testing"

	"epiphyte/internal/testnet"
)

// advertise is a neighbour advertisement to the gateway.
func advertise(src, target netip.Addr) []byte {
	b := target.As16()
	return testnet.ICMP(src, netip.MustParseAddr("fd00::2"), 136, 0, append([]byte{0x60, 0, 0, 0}, b[:]...))
}

// from gives a frame another Ethernet source, such as that of a macvlan in the guest.
func from(mac byte, frame []byte) []byte {
	frame[11] = mac
	return frame
}

// The guest's IPv6 address is the one that the TAP's own interface claims in
// neighbour discovery, whoever else has spoken last; before, what SLAAC would make.
func TestGuestAddr6(t *testing.T) {
	const slaac = "fd00::ff:fe00:64"
	a := netip.MustParseAddr
	gateway, unspecified := a("fd00::2"), netip.IPv6Unspecified()
	for _, c := range []struct {
		name   string
		frames [][]byte
		want   string
	}{
		{"silence", nil, slaac},
		{"a packet proves nothing: it may be forwarded", [][]byte{testnet.UDP(guest6, remote6, testnet.TTL, nil)}, slaac},
		{"a solicitation", [][]byte{solicit(a("fd00::a"), gateway)}, "fd00::a"},
		{"an advertisement", [][]byte{advertise(a("fe80::a"), a("fd00::a"))}, "fd00::a"},
		{"duplicate address detection", [][]byte{solicit(unspecified, a("fd00::a"))}, "fd00::a"},
		{"a change", [][]byte{solicit(a("fd00::a"), gateway), solicit(unspecified, a("fd00::b"))}, "fd00::b"},
		{"a packet from the old address", [][]byte{solicit(a("fd00::b"), gateway), testnet.UDP(guest6, remote6, testnet.TTL, nil)}, "fd00::b"},
		{"another interface speaks last", [][]byte{solicit(a("fd00::a"), gateway), from(0x99, solicit(a("fd00::c"), gateway))}, "fd00::a"},
		{"another interface speaks first", [][]byte{from(0x99, solicit(a("fd00::c"), gateway)), solicit(a("fd00::a"), gateway)}, "fd00::a"},
		{"another interface alone speaks", [][]byte{from(0x99, solicit(unspecified, a("fd00::c")))}, slaac},
		{"link-local", [][]byte{solicit(a("fe80::a"), a("fe80::2"))}, slaac},
		{"another prefix", [][]byte{solicit(a("2001:db8::a"), gateway)}, slaac},
		{"our own address", [][]byte{solicit(unspecified, gateway), advertise(a("fe80::a"), gateway)}, slaac},
		{"cut short", [][]byte{testnet.ICMP(a("fe80::a"), gateway, 136, 0, []byte{0, 0, 0, 0, 0xfd})}, slaac},
	} {
		s := newSeam(t, seamConfig{})
		s.feed(c.frames...)
		if got := s.stack.GuestAddr6(); got != a(c.want) {
			t.Errorf("%s: the guest has %v, want %s", c.name, got, c.want)
		}
	}
	s := newSeam(t, seamConfig{guest6: a("fd00::64")})
	s.feed(solicit(a("fd00::a"), gateway))
	if got := s.stack.GuestAddr6(); got != a("fd00::64") {
		t.Errorf("a guest that was given fd00::64 has %v", got)
	}
	if got := newSeam(t, seamConfig{noIPv6: true}).stack.GuestAddr6(); got.IsValid() {
		t.Errorf("without IPv6 the guest has %v", got)
	}
}
