package cli

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"epiphyte/internal/api"
)

// TestStatsAreLogged at each tick, with all values.
func TestStatsAreLogged(t *testing.T) {
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	tick := make(chan time.Time)
	done := make(chan struct{})
	go func() {
		defer close(done)
		logStats(ctx, slog.New(slog.NewTextHandler(&out, nil)), tick, func() []api.Metric {
			return []api.Metric{
				{Name: "rules", Values: []api.Value{{N: 3}}},
				{Name: "flows", Label: "kind", Values: []api.Value{{Label: "tcp", N: 1}, {Label: "session", N: 2}}},
			}
		})
	}()
	tick <- time.Time{}
	tick <- time.Time{}
	cancel()
	<-done
	if n := strings.Count(out.String(), "msg=counters rules=3 flows.tcp=1 flows.session=2\n"); n != 2 {
		t.Errorf("%d of 2 lines: %s", n, out.String())
	}
}
