package chart

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

func one(v float64) Summary { return Summary{Median: v, Min: v / 2, Max: v * 2, N: 3} }

// TestChartIsWellFormed whatever the labels, and shows each figure once.
func TestChartIsWellFormed(t *testing.T) {
	c := Chart{
		Title: `a < b & "c"`, Unit: "µs", Labels: []string{"x<1>", "y"}, Series: []string{"p&q", "r"},
		Values: [][]Summary{{one(1), one(2)}, {{}, one(1e4)}},
	}
	n := elements(t, SVG(c))
	// Background, two of the legend, three bars; title, legend, labels, figures.
	if n["rect"] != 6 || n["text"] != 1+2+2+3 {
		t.Errorf("bars: %v", n)
	}
	c.Lines = true
	if n = elements(t, SVG(c)); n["circle"] != 3 || n["polyline"] != 2 {
		t.Errorf("lines: %v", n)
	}
	if n = elements(t, SVG(c, c)); n["svg"] != 3 || n["circle"] != 6 {
		t.Errorf("two charts: %v", n)
	}
	elements(t, SVG(Chart{}))
	elements(t, SVG(Chart{Lines: true, Labels: []string{"x"}, Series: []string{"p"}, Values: [][]Summary{{{}}}}))
}

func TestRoundUp(t *testing.T) {
	for v, want := range map[float64]float64{1: 1, 1.1: 2, 33: 40, 81: 100, 0.3: 0.4, 6e5: 8e5} {
		if got := roundUp(v); got < want*0.999 || got > want*1.001 {
			t.Errorf("%v: %v, want %v", v, got, want)
		}
	}
}

// TestOutlierLeavesTheOthersTheirRoom: one figure far above all medians is cut off, and said.
func TestOutlierLeavesTheOthersTheirRoom(t *testing.T) {
	far := one(10)
	far.Max = 1000
	c := Chart{Title: "start", Unit: "ms", Better: Less, Labels: []string{"a"}, Series: []string{"p", "q"}, Values: [][]Summary{{one(9)}, {far}}}
	svg := SVG(c)
	if most := c.most(); most > 20 {
		t.Errorf("the scale ends at %v", most)
	}
	for _, want := range []string{Less, "(… 1000)"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %q in %s", want, svg)
		}
	}
}

// TestColourIsTheSeries own, whatever else is in the chart.
func TestColourIsTheSeries(t *testing.T) {
	c := Chart{Labels: []string{"a"}, Series: []string{"q"}, Colours: []int{4}, Values: [][]Summary{{one(1)}}}
	if svg := SVG(c); !strings.Contains(svg, colour(4)) || strings.Contains(svg, colour(0)) {
		t.Error(svg)
	}
}
