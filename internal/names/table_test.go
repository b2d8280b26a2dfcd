package names

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

// expect asks for the A record of each name.
func expect(t *testing.T, table *Table, want map[string]string) {
	t.Helper()
	for name, want := range want {
		qtype := mdns.TypeA
		if strings.HasSuffix(name, ".arpa.") {
			qtype = mdns.TypePTR
		}
		if got := text(answer(t, table, query(name, qtype), overUDP)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestRemove(t *testing.T) {
	table := web(nil)
	table.Remove("1")
	table.Remove("nobody")
	expect(t, table, map[string]string{
		"db.":                     "NXDOMAIN soa .",
		"dB.Web.":                 "NXDOMAIN soa Web.",
		"db.dns.podman.":          "NXDOMAIN soa dns.podman.",
		"db.example.com.":         "NXDOMAIN soa .",
		"example.com.":            "forward",
		"store.":                  "NOERROR 10.90.3.3",
		"cache.":                  "NOERROR 10.90.3.3",
		"2.3.90.10.in-addr.arpa.": "NXDOMAIN soa 3.90.10.in-addr.arpa.",
	})
	table.Remove("2")
	expect(t, table, map[string]string{"store.": "NXDOMAIN soa ."})
	table.Add("5", Member{Name: "DB", Addrs: addrs("10.90.3.6")})
	expect(t, table, map[string]string{"db.": "NOERROR 10.90.3.6", "store.": "NXDOMAIN soa ."})
}

func TestReplace(t *testing.T) {
	table := web(nil)
	table.Add("1", Member{Name: "db", Aliases: []string{"new"}, Addrs: addrs("10.90.3.7")})
	expect(t, table, map[string]string{
		"db.":                     "NOERROR 10.90.3.7",
		"new.":                    "NOERROR 10.90.3.7",
		"db.example.com.":         "NXDOMAIN soa .",
		"store.":                  "NOERROR 10.90.3.3",
		"7.3.90.10.in-addr.arpa.": "NOERROR db.web.",
		"2.3.90.10.in-addr.arpa.": "NXDOMAIN soa 3.90.10.in-addr.arpa.",
	})
}

// TestNameAbove: what is above a name exists for as long as the name does.
func TestNameAbove(t *testing.T) {
	table := web(nil)
	table.Add("5", Member{Name: "one", Aliases: []string{"a.b.deep", "c.deep"}})
	table.Add("5", Member{Name: "one", Aliases: []string{"c.deep"}})
	expect(t, table, map[string]string{
		"b.deep.dns.podman.": "NXDOMAIN soa dns.podman.",
		"deep.dns.podman.":   "NOERROR soa dns.podman.",
		"deep.web.":          "forward",
	})
	table.Remove("5")
	expect(t, table, map[string]string{"deep.dns.podman.": "NXDOMAIN soa dns.podman."})
}

// TestClash has two members of one name, one address, and a name that is another's
// with the network's behind it.
func TestClash(t *testing.T) {
	table := web(nil)
	table.Add("5", Member{Name: "DB", Addrs: addrs("10.90.3.6")})
	table.Add("6", Member{Name: "six", Hostname: "db.web", Addrs: addrs("10.90.3.2")})
	expect(t, table, map[string]string{
		"db.":                     "NOERROR 10.90.3.2 10.90.3.6",
		"db.web.":                 "NOERROR 10.90.3.2 10.90.3.6",
		"six.":                    "NOERROR 10.90.3.2",
		"2.3.90.10.in-addr.arpa.": "NOERROR Db.web. six.web.",
	})
	table.Remove("1")
	expect(t, table, map[string]string{
		"db.":                     "NOERROR 10.90.3.6",
		"db.web.":                 "NOERROR 10.90.3.2 10.90.3.6", // begins with the second, in turn
		"2.3.90.10.in-addr.arpa.": "NOERROR six.web.",
	})
}

// TestSuccessor enters before its predecessor, of the same name and address, has left.
func TestSuccessor(t *testing.T) {
	table := web(nil)
	for _, id := range []string{"5", "6"} {
		table.Add(id, Member{Name: "again", Addrs: addrs("10.90.3.6")})
		expect(t, table, map[string]string{"again.": "NOERROR 10.90.3.6", "6.3.90.10.in-addr.arpa.": "NOERROR again.web."})
	}
	table.Remove("5")
	expect(t, table, map[string]string{"again.": "NOERROR 10.90.3.6", "6.3.90.10.in-addr.arpa.": "NOERROR again.web."})
}

func TestMemberWithOddities(t *testing.T) {
	table := web(nil)
	long := strings.Repeat(strings.Repeat("n", 62)+".", 4)[:251]
	table.Add("5", Member{Name: long, Aliases: []string{"_Gateway", "10.90.3.8", "bad..name", ""}, Hostname: "localhost",
		Addrs: append(addrs("::ffff:10.90.3.8", "10.90.3.8", "fe80::8%eth0"), netip.Addr{})})
	table.Add("6", Member{Aliases: []string{"alias"}, Addrs: addrs("10.90.3.9")})
	table.Add("7", Member{Addrs: addrs("10.90.3.10")})
	table.Add("8", Member{Name: "bare"})
	expect(t, table, map[string]string{
		long + ".":                 "NOERROR 10.90.3.8",
		"_gateway.":                "NOERROR 10.90.3.1",
		"localhost.":               "forward",
		"8.3.90.10.in-addr.arpa.":  "NOERROR " + long + ".",
		"9.3.90.10.in-addr.arpa.":  "NOERROR alias.web.",
		"10.3.90.10.in-addr.arpa.": "NXDOMAIN soa 3.90.10.in-addr.arpa.",
		"bare.":                    "NOERROR soa .",
	})
	if got := text(answer(t, table, query(long+".", mdns.TypeAAAA), overUDP)); got != "NOERROR soa ." {
		t.Errorf("link-local address: %s", got)
	}
}

// TestWithoutNetworkName has no IPv6 either.
func TestWithoutNetworkName(t *testing.T) {
	table := web(func(cfg *Config) { cfg.Network, cfg.Subnets[1] = "", netip.Prefix{} })
	expect(t, table, map[string]string{
		"db.":                     "NOERROR 10.90.3.2",
		"db.web.":                 "forward",
		"2.3.90.10.in-addr.arpa.": "NOERROR Db.",
	})
}

// TestFormerAreBounded lets more names come and go than are remembered, and one of
// the first return meanwhile.
func TestFormerAreBounded(t *testing.T) {
	table := New(Config{Network: "web"})
	const names = maxFormer / 2 * 3 / 2 // each has two full names to be remembered
	for i := range names {
		name := fmt.Sprintf("n%d", i)
		table.Add("x", Member{Name: name})
		table.Remove("x")
		if i == names/2 {
			table.Add("y", Member{Name: "n0"})
			table.Remove("y")
		}
	}
	if n := table.former.order.Len(); n != maxFormer || len(table.former.byName) != n {
		t.Errorf("%d names are remembered in order, %d by name, want %d", n, len(table.former.byName), maxFormer)
	}
	if n := len(table.entries); n != len(New(Config{Network: "web"}).entries) {
		t.Errorf("%d entries are left", n)
	}
	expect(t, table, map[string]string{
		"n0.":                            "NXDOMAIN soa .",
		"n1.":                            "forward",
		"n1.dns.podman.":                 "NXDOMAIN soa dns.podman.",
		fmt.Sprintf("n%d.", names-2000):  "NXDOMAIN soa .", // names in dns.podman take no room
		fmt.Sprintf("n%d.", names-1):     "NXDOMAIN soa .",
		fmt.Sprintf("n%d.web.", names-1): "NXDOMAIN soa web.",
	})
}

func TestReverseZones(t *testing.T) {
	for _, tc := range []struct {
		prefix string
		want   []string
	}{
		{"10.90.3.0/24", []string{"3.90.10.in-addr.arpa"}},
		{"10.90.4.0/23", []string{"4.90.10.in-addr.arpa", "5.90.10.in-addr.arpa"}},
		{"10.90.3.8/31", []string{"8.3.90.10.in-addr.arpa", "9.3.90.10.in-addr.arpa"}},
		{"10.0.0.0/8", []string{"10.in-addr.arpa"}},
		{"0.0.0.0/0", []string{"in-addr.arpa"}},
		{"fd90:0:0:30::/60", []string{"3.0.0.0.0.0.0.0.0.0.0.0.9.d.f.ip6.arpa"}},
		{"fd90::/15", []string{"0.9.d.f.ip6.arpa", "1.9.d.f.ip6.arpa"}},
	} {
		if got := reverseZones(netip.MustParsePrefix(tc.prefix)); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.prefix, got, tc.want)
		}
	}
}

// TestSubnetInsideALabel asks for addresses beside a subnet of 4 bits.
func TestSubnetInsideALabel(t *testing.T) {
	table := web(func(cfg *Config) { cfg.Subnets = []netip.Prefix{netip.MustParsePrefix("10.90.3.0/28")} })
	expect(t, table, map[string]string{
		"2.3.90.10.in-addr.arpa.":  "NOERROR Db.web.",
		"15.3.90.10.in-addr.arpa.": "NXDOMAIN soa 15.3.90.10.in-addr.arpa.",
		"16.3.90.10.in-addr.arpa.": "forward",
	})
}

func TestValid(t *testing.T) {
	for name, want := range map[string]bool{
		"db": true, "DB": true, "a-b": true, "a_b": true, "_x": true, "1": true, "123456789012": true, "1a.2": true,
		"db.example.com": true, strings.Repeat("a", 63): true, strings.Repeat("a.", 126) + "a": true, "localhost.x": true,
		"": false, ".": false, "db.": false, ".db": false, "a..b": false, "-a": false, "a-": false, "a.-b": false,
		"a b": false, "ä": false, "a/b": false, "*": false, "a\x00": false, strings.Repeat("a", 64): false,
		strings.Repeat("a.", 126) + "aa": false, "10.0.0.1": false, "10.1": false, "010.0.0.01": false, "::1": false,
		"fd90::1": false, "localhost": false, "LocalHost": false, "x.localhost": false, "_gateway": false, "_GATEWAY": false,
	} {
		if err := Valid(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}
