package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// elements counts the elements of a document, which must be well-formed.
func elements(t *testing.T, svg string) map[string]int {
	t.Helper()
	n := map[string]int{}
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			n[e.Name.Local]++
		}
	}
}

func one(v float64) summary { return summary{median: v, min: v / 2, max: v * 2, n: 3} }

// TestChartIsWellFormed whatever the labels, and shows each figure once.
func TestChartIsWellFormed(t *testing.T) {
	c := chart{
		title: `a < b & "c"`, unit: "µs", labels: []string{"x<1>", "y"}, series: []string{"p&q", "r"},
		values: [][]summary{{one(1), one(2)}, {{}, one(1e4)}},
	}
	n := elements(t, c.svg())
	// Background, two of the legend, three bars; title, legend, labels, figures.
	if n["rect"] != 6 || n["text"] != 1+2+2+3 {
		t.Errorf("bars: %v", n)
	}
	c.lines = true
	if n = elements(t, c.svg()); n["circle"] != 3 || n["polyline"] != 2 {
		t.Errorf("lines: %v", n)
	}
	elements(t, chart{}.svg())
	elements(t, chart{lines: true, labels: []string{"x"}, series: []string{"p"}, values: [][]summary{{{}}}}.svg())
}

func TestRoundUp(t *testing.T) {
	for v, want := range map[float64]float64{1: 1, 1.1: 2, 33: 40, 81: 100, 0.3: 0.4, 6e5: 8e5} {
		if got := roundUp(v); got < want*0.999 || got > want*1.001 {
			t.Errorf("%v: %v, want %v", v, got, want)
		}
	}
}

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
	for name, svg := range drawn {
		elements(t, svg)
		if name != "dns" && name != "connections" && name != "growth-connections-memory" {
			t.Errorf("%s is drawn", name)
		}
	}
	if got, want := pictureLinks(drawn, "docs/performance.md"),
		"\n### Plots\n\n![connections](performance/connections.svg)\n![dns](performance/dns.svg)\n![growth-connections-memory](performance/growth-connections-memory.svg)\n"; got != want {
		t.Error(got)
	}
	var w strings.Builder
	b.growthTables(&w)
	want := "\n### How cost grows\n\nMemory, MB\n\n| idle connections | 1000 | 5000 | 9000 |\n|---|--:|--:|--:|\n| epiphyte | 8.0 | 34.0 | |\n"
	if w.String() != want {
		t.Error(w.String())
	}
}
