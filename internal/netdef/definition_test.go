package netdef

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidName(t *testing.T) {
	for _, name := range []string{"web", "w", "0", "Web", "my_net-2.example", "a-", strings.Repeat("n", 63)} {
		if err := ValidName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "-web", "_web", ".web", "web.", "a..b", "a/b", "../web", "a b", "web\n", "a\x00", "wéb", "w:b", strings.Repeat("n", 64), "host", "none",
	} {
		err := ValidName(name)
		if err == nil {
			t.Errorf("%q is a name", name)
		} else if strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("%q: the error is no line: %q", name, err)
		}
	}
}

func TestValidate(t *testing.T) {
	pre := netip.MustParsePrefix
	for _, d := range []Definition{
		{},
		{Subnet: pre("192.168.5.0/29"), Subnet6: pre("fd12:3456::/64"), MTU: 1280},
		{Subnet6: pre("fd12:3456::/64"), MTU: 65520, Internal: true, Isolate: true, NoDNS: true},
		{IPv4Only: true, MTU: 68, AllowHostLoopback: true},
	} {
		d.Name = "web"
		if err := d.Validate(); err != nil {
			t.Errorf("%+v: %v", d, err)
		}
	}
	for _, tt := range []struct {
		d    Definition
		want string // the remedy
	}{
		{Definition{Subnet: pre("10.90.3.5/24")}, "its network address is 10.90.3.0/24"},
		{Definition{Subnet6: pre("fd90::5/64")}, "its network address is fd90::/64"},
		{Definition{Subnet: pre("10.90.3.0/30")}, "not an IPv4 subnet"},
		{Definition{Subnet: pre("fd90::/64")}, "not an IPv4 subnet"},
		{Definition{Subnet: pre("127.1.0.0/24")}, "choose a private one"},
		{Definition{Subnet6: pre("fd90::/48")}, "not an IPv6 subnet"},
		{Definition{Subnet6: pre("10.90.3.0/24")}, "not an IPv6 subnet"},
		{Definition{Subnet6: pre("fd90::/64"), IPv4Only: true}, "leave one of the two out"},
		{Definition{Internal: true, AllowHostLoopback: true}, "leave one of the two out"},
		{Definition{MTU: 1279}, "choose 1280 to 65520 bytes"},
		{Definition{MTU: 67, IPv4Only: true}, "choose 68 to 65520 bytes"},
		{Definition{MTU: 65521}, "choose 1280 to 65520 bytes"},
		{Definition{MTU: -1}, "choose 1280 to 65520 bytes"},
	} {
		tt.d.Name = "web"
		err := tt.d.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), "network web: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v, want the network's name and %q", tt.d, err, tt.want)
		}
	}
	if err := new(Definition).Validate(); err == nil {
		t.Error("a network without a name")
	}
}
