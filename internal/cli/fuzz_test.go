package cli

import (
	"net"
	"strings"
	"testing"
)

// FuzzAddressOptions: of any addresses on the command line comes a plan whose addresses
// lie in the subnets, or an error of the user's.
func FuzzAddressOptions(f *testing.F) {
	for _, s := range [][4]string{
		{"10.0.2.0/24", "fd00::/64", "02:00:00:00:00:64", "127.0.0.1"},
		{"10.0.135.128/25", "2001:db8:1:2::/64", "2:0:0:0:0:1", "::1"},
		{"10.0.2.100/24", "fd00::1/64", "01:00:5e:00:00:01", "lo"},
		{"224.0.0.0/4", "fe80::/64", "00:00:00:00:00:00", "255.255.255.255"},
		{"", "::ffff:0.0.0.0/64", "2:0:0:0:0:1x", "fe80::1%lo"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	f.Fuzz(func(t *testing.T, cidr, cidr6, mac, outbound string) {
		a, exit := ParseAttach("epiphyte", []string{
			"-c", "-6", "--cidr=" + cidr, "--cidr6=" + cidr6, "--macaddress=" + mac, "--outbound-addr=" + outbound, "4242", "tap0",
		})
		if exit != nil {
			if exit.Code != 1 || exit.Stderr == "" {
				t.Errorf("%+v", exit)
			}
			return
		}
		p := &a.Plan
		if !p.IPv6() || p.IsOwn(p.Guest) || p.IsOwn(p.Guest6) || !p.Prefix.Contains(p.Guest) || !p.Prefix6.Contains(p.Guest6) {
			t.Errorf("plan %+v", p)
		}
		if p.Prefix.String() != strings.Replace(cidr, "/0", "/", 1) {
			t.Errorf("%q is %v", cidr, p.Prefix)
		}
		if len(a.MAC) != 6 || a.MAC[0]&1 != 0 {
			t.Errorf("%q is %v", mac, a.MAC)
		}
		if other, err := net.ParseMAC(mac); err == nil && other.String() != a.MAC.String() {
			t.Errorf("%q is %v, want %v", mac, a.MAC, other)
		}
		if from, bound, _ := a.Source.For(p.Guest); bound && !from.Is4() {
			t.Errorf("%q sends from %v", outbound, from)
		}
	})
}
