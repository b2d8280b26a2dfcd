package netdef

import (
	"epiphyte/internal/addressing"
	"net/netip"
	"strings"
	"testing"
)

func prefixes(list string) (all []netip.Prefix) {
	for _, s := range strings.Fields(list) {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestChoose(t *testing.T) {
	pre := netip.MustParsePrefix
	v4only := Definition{IPv4Only: true}
	for _, tt := range []struct {
		name         string
		d            Definition
		taken        string
		want4, want6 string
	}{
		{"nothing taken", Definition{}, "", "10.90.0.0/24", "fd90::/64"},
		{"others taken", Definition{}, "10.89.0.0/16 192.168.0.0/16 fd00::/64", "10.90.0.0/24", "fd90::/64"},
		{"the pool itself", Definition{}, "10.90.0.0/24 fd90::/64", "10.90.1.0/24", "fd90:0:0:1::/64"},
		{"an address in it", Definition{}, "10.90.0.7/32", "10.90.1.0/24", "fd90:0:0:1::/64"},
		{"more than it", Definition{}, "10.90.0.0/20", "10.90.16.0/24", "fd90:0:0:10::/64"},
		{"one number for both", Definition{}, "10.90.0.0/24 fd90:0:0:1::/64", "10.90.2.0/24", "fd90:0:0:2::/64"},
		{"no number for both", Definition{}, "10.90.0.0/17 fd90:0:0:80::/57", "10.90.128.0/24", "fd90::/64"},
		{"the last", Definition{}, "10.90.0.0/17 10.90.128.0/18 10.90.192.0/19 10.90.224.0/20 10.90.240.0/21 10.90.248.0/22 10.90.252.0/23 10.90.254.0/24", "10.90.255.0/24", "fd90:0:0:ff::/64"},
		{"a route to more than all", Definition{}, "10.0.0.0/8 fc00::/7 10.90.0.0/24", "10.90.1.0/24", "fd90:0:0:1::/64"},
		{"IPv4 only", v4only, "10.90.0.0/24 fd90::/16", "10.90.1.0/24", ""},
		{"IPv4 named", Definition{Subnet: pre("10.90.7.0/24")}, "", "10.90.7.0/24", "fd90:0:0:7::/64"},
		{"IPv4 named, its number taken", Definition{Subnet: pre("10.90.7.0/24")}, "fd90:0:0:7::/64", "10.90.7.0/24", "fd90::/64"},
		{"IPv4 named and taken", Definition{Subnet: pre("10.90.7.0/24")}, "10.90.0.0/16", "10.90.7.0/24", "fd90:0:0:7::/64"},
		{"IPv4 named elsewhere", Definition{Subnet: pre("192.168.5.0/24")}, "fd90::/64", "192.168.5.0/24", "fd90:0:0:1::/64"},
		{"IPv6 named", Definition{Subnet6: pre("fd90:0:0:a::/64")}, "", "10.90.10.0/24", "fd90:0:0:a::/64"},
		{"both named", Definition{Subnet: pre("10.1.0.0/16"), Subnet6: pre("fd12::/64")}, "10.90.0.0/16 fd90::/16", "10.1.0.0/16", "fd12::/64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.d.Name = "web"
			got, err := Choose(tt.d, prefixes(tt.taken))
			if err != nil {
				t.Fatal(err)
			}
			text6, _ := got.Subnet6.MarshalText()
			if got.Subnet.String() != tt.want4 || string(text6) != tt.want6 {
				t.Errorf("%v and %s, want %s and %s", got.Subnet, text6, tt.want4, tt.want6)
			}
			if _, err := addressing.NewNetwork(got.Subnet, got.Subnet6); err != nil {
				t.Error(err)
			}
		})
	}
	for taken, want := range map[string]string{"10.90.0.0/16": "--subnet", "fd90::/56": "--subnet6"} {
		_, err := Choose(Definition{Name: "web"}, prefixes(taken))
		if err == nil || !strings.HasSuffix(err.Error(), " "+want) || !strings.Contains(err.Error(), "web") {
			t.Errorf("with %s taken: %v, want an error that names web and %s", taken, err, want)
		}
	}
}
