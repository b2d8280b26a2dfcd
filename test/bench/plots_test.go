package main

import (
	"strings"
	"testing"
)

// TestPicturesAndTablesOfARun: those of what has been measured and no others,
// linked where a document expects them.
func TestPicturesAndTablesOfARun(t *testing.T) {
	b := measured(t, []string{kindOurs, kindVeth}, map[string]map[string][]float64{
		"hold-1000 growth_mb": {kindOurs: {8}},
		"hold-5000 growth_mb": {kindOurs: {33, 35}},
		"hold-9000 growth_mb": {},
		"dns-one per_s":       {kindOurs: {1000}, kindVeth: {2000}},
		"connect-1 per_s":     {kindOurs: {10}},
		"connect-16 per_s":    {kindOurs: {20}},
	})
	drawn := b.pictures()
	for name := range drawn {
		if name != "dns" && name != "connections" && name != "growth-connections-memory" {
			t.Errorf("%s is drawn", name)
		}
	}
	if got, want := pictureLinks(drawn, "docs/performance/results.md"),
		"\n### Plots\n\n![connections](results/connections.svg)\n![dns](results/dns.svg)\n![growth-connections-memory](results/growth-connections-memory.svg)\n"; got != want {
		t.Error(got)
	}
	var w strings.Builder
	b.growthTables(&w)
	want := "\n### How cost grows\n\nMemory, MB\n\n| idle connections | 1000 | 5000 | 9000 |\n|---|--:|--:|--:|\n| epiphyte | 8.0 | 34.0 | |\n"
	if w.String() != want {
		t.Error(w.String())
	}
}
