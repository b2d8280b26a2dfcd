package dhcp

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"epiphyte/internal/addressing/addressingtest"
)

// newMembers is the server of a network with two members, whose hardware addresses
// are mac(1) and mac(2).
func newMembers(t testing.TB) *Server {
	return New(Config{
		Plan: addressingtest.Network(t),
		MTU:  65520,
		AddressOf: func(mac [6]byte) (netip.Addr, bool) {
			a, ok := map[[6]byte]string{{2, 5: 1}: "10.90.0.2", {2, 5: 2}: "10.90.0.77"}[mac]
			if !ok {
				return netip.Addr{}, false
			}
			return netip.MustParseAddr(a), true
		},
	})
}

// A member gets its own address, whatever it asks for, and the network's gateway,
// which is its resolver.
func TestMembers(t *testing.T) {
	s := newMembers(t)
	for client, own := range map[byte]string{1: "10.90.0.2", 2: "10.90.0.77"} {
		want(t, exchange(t, s, discover, client), offer, own)
		want(t, exchange(t, s, discover, client, wishFor("10.90.0.9")), offer, own)
		want(t, exchange(t, s, request, client), ack, own)
		want(t, exchange(t, s, request, client, wishFor(own)), ack, own)
		want(t, exchange(t, s, request, client, dhcpv4.WithClientIP(net.ParseIP(own))), ack, own)
		want(t, exchange(t, s, none, client), ack, own) // BOOTP
		want(t, exchange(t, s, request, client, wishFor("10.90.0.9")), nak, "")
		want(t, exchange(t, s, request, client, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 90, 0, 9)))), none, "")
		want(t, exchange(t, s, dhcpv4.MessageTypeInform, client, dhcpv4.WithClientIP(net.ParseIP(own))), ack, "")
		want(t, exchange(t, s, dhcpv4.MessageTypeRelease, client, dhcpv4.WithClientIP(net.ParseIP(own))), none, "")
		want(t, exchange(t, s, discover, client), offer, own)
	}
	r := exchange(t, s, request, 1)
	for what, got := range map[string][]net.IP{"router": r.Router(), "resolver": r.DNS(), "server": {r.ServerIdentifier()}} {
		if len(got) != 1 || got[0].String() != "10.90.0.1" {
			t.Errorf("%s %v, want 10.90.0.1", what, got)
		}
	}
	if got := r.SubnetMask().String(); got != "ffffff00" {
		t.Errorf("mask is %s", got)
	}
}

func TestStrangersGetNoAnswer(t *testing.T) {
	s := newMembers(t)
	for _, kind := range []dhcpv4.MessageType{discover, request, none, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeRelease} {
		want(t, exchange(t, s, kind, 3), none, "")
		want(t, exchange(t, s, kind, 3, wishFor("10.90.0.2")), none, "")
	}
	// Of another length, it is not an Ethernet address.
	for _, hw := range []net.HardwareAddr{mac(1)[:5], append(mac(1), 0)} {
		m, err := dhcpv4.New(dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(discover))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Handle(m.ToBytes()); got != nil {
			t.Errorf("%v is answered", hw)
		}
	}
}

// A network whose members nobody knows answers nobody.
func TestNetworkWithoutMembers(t *testing.T) {
	s := New(Config{Plan: addressingtest.Network(t)})
	for _, kind := range []dhcpv4.MessageType{discover, request, none, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeRelease} {
		want(t, exchange(t, s, kind, 1), none, "")
		want(t, exchange(t, s, kind, 1, wishFor("10.90.0.2")), none, "")
	}
}

// FuzzHandleMembers: any bytes are safe with given addresses, too.
func FuzzHandleMembers(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{none, discover, request, dhcpv4.MessageTypeInform} {
		m, err := dhcpv4.New(dhcpv4.WithHwAddr(mac(1)), wishFor("10.90.0.2"), dhcpv4.WithMessageType(kind))
		if err != nil {
			f.Fatal(err)
		}
		whole := m.ToBytes()
		for _, hlen := range []byte{0, 5, 6, 16, 255} {
			b := append([]byte(nil), whole...)
			b[2] = hlen
			f.Add(b)
		}
	}
	s := newMembers(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := s.Handle(b)
		if r == nil {
			return
		}
		m, err := dhcpv4.FromBytes(r)
		if err != nil {
			t.Fatalf("answer does not parse: %v", err)
		}
		if a := m.YourIPAddr.String(); a != "0.0.0.0" && a != "10.90.0.2" && a != "10.90.0.77" {
			t.Errorf("%s is given to somebody", a)
		}
	})
}
