package cli

import (
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"epiphyte/internal/api"
	"epiphyte/internal/guest"
	"epiphyte/internal/relay"
)

func TestFlowsOf(t *testing.T) {
	got := flowsOf([]relay.Info{
		{Proto: "tcp", Guest: netip.MustParseAddrPort("10.0.2.100:1"), Remote: netip.MustParseAddrPort("[::1]:2"), State: "established", In: 3, Out: 4, Age: 5, Idle: 6},
		{Proto: "udp", Guest: netip.MustParseAddrPort("10.0.2.100:7")},
	})
	want := []api.Flow{
		{Proto: "tcp", Guest: "10.0.2.100:1", Remote: "[::1]:2", State: "established", In: 3, Out: 4, Age: 5, Idle: 6},
		{Proto: "udp", Guest: "10.0.2.100:7"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestMetricsAreNamedForPrometheus: names by its conventions, each once, each
// with its help.
func TestMetricsAreNamedForPrometheus(t *testing.T) {
	name := regexp.MustCompile(`^[a-z][a-z0-9_]*[a-z0-9]$`)
	seen := map[string]bool{}
	for _, m := range metricsOf(guest.Stats{}, time.Minute) {
		if !name.MatchString(m.Name) || seen[m.Name] || m.Help == "" || len(m.Values) == 0 || (m.Label == "") != (len(m.Values) == 1) {
			t.Errorf("%+v", m)
		}
		seen[m.Name] = true
	}
}
