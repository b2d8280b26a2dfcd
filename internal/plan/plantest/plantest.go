// Package plantest has the address plan that tests of other packages stand on.
//
// # Theory of operation
//
// New builds it anew for each test, so none sees what another has changed. It is for
// tests only, and holds nothing.
package plantest

import (
	"testing"

	"epiphyte/internal/plan"
)

// New is the plan of the defaults, with IPv4 and IPv6.
func New(t testing.TB) plan.Plan {
	t.Helper()
	p, err := plan.New(plan.DefaultIPv4(), plan.DefaultIPv6())
	if err != nil {
		t.Fatal(err)
	}
	return p
}
