// Package addressingtest has the address plan that tests of other packages stand on.
//
// # Theory of operation
//
// New builds it anew for each test, so none sees what another has changed. It is for
// tests only, and holds nothing.
package addressingtest

import (
	"testing"

	"epiphyte/internal/addressing"
)

// New is the plan of the defaults, with IPv4 and IPv6.
func New(t testing.TB) addressing.Plan {
	t.Helper()
	p, err := addressing.New(addressing.DefaultIPv4(), addressing.DefaultIPv6())
	if err != nil {
		t.Fatal(err)
	}
	return p
}
