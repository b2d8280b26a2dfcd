package egress_test

import (
	"strings"
	"testing"

	"epiphyte/internal/egress"
	"epiphyte/internal/egress/egresstest"
)

// TestGolden decides the flows that testdata/*.policy list, each in the file of its
// policy.
func TestGolden(t *testing.T) {
	for _, c := range egresstest.Cases(t, "testdata") {
		if got := egresstest.Said(c.Policy.Decide(c.Flow)); got != c.Want {
			t.Errorf("%s: %s", c.Where, got)
		}
	}
}

// TestFlowSaysWhatIsMissing: a flow that ends too early is told what it lacks.
func TestFlowSaysWhatIsMissing(t *testing.T) {
	for flow, want := range map[string]string{
		"tcp": "NAME:PORT or ADDRESS:PORT is missing", "icmp": "a name or an address is missing", "tcp a.example": "a port is missing",
		"in tcp": `"from" is missing`, "in tcp from": "an address is missing", "in tcp from 192.0.2.1 to": "a port is missing",
	} {
		if _, err := egress.ParseFlow(flow); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want that %s", flow, err, want)
		}
	}
}
