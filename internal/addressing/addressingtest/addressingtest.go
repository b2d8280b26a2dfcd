// Package addressingtest has the address plans that tests of other packages stand on.
//
// # Theory of operation
//
// A plan is built anew for each test, so none sees what another has changed. It is for
// tests only, and holds nothing.
package addressingtest

import (
	"net/netip"
	"testing"

	"epiphyte/internal/addressing"
)

// New is the plan of the defaults, with IPv4 and IPv6.
func New(t testing.TB) addressing.Plan {
	t.Helper()
	return plan(t, addressing.DefaultIPv6())
}

// IPv4Only is the plan of the defaults without IPv6.
func IPv4Only(t testing.TB) addressing.Plan {
	t.Helper()
	return plan(t, netip.Prefix{})
}

// Network is the plan of the first network of several members: 10.90.0.0/24 and
// fd90::/64.
func Network(t testing.TB) addressing.Plan {
	t.Helper()
	p, err := addressing.NewNetwork(netip.MustParsePrefix("10.90.0.0/24"), netip.MustParsePrefix("fd90::/64"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func plan(t testing.TB, prefix6 netip.Prefix) addressing.Plan {
	t.Helper()
	p, err := addressing.New(addressing.DefaultIPv4(), prefix6)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Copied is the plan of a guest that has the host's addresses, 192.0.2.10/24 and
// 2001:db8:1::10/64, with all that may stand for something: the gateways for the host's
// loopback, 169.254.1.2 and fc00::2 for its address, 169.254.1.1 and fc00::53 for DNS.
func Copied(t testing.TB) addressing.Plan {
	t.Helper()
	a, pre := netip.MustParseAddr, netip.MustParsePrefix
	p, err := addressing.NewCopied(addressing.Copied{
		Addresses: []netip.Prefix{pre("192.0.2.10/24"), pre("198.51.100.10/28"), pre("2001:db8:1::10/64"), pre("2001:db8:2::10/128")},
		Gateway:   a("192.0.2.1"), Gateway6: a("fe80::2:1"),
		HostAddrs: []netip.Addr{a("169.254.1.2"), a("fc00::2")},
		DNS:       []netip.Addr{a("169.254.1.1"), a("fc00::53")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
