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
