package chart

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// Chart is a picture of figures: a group for each label, and in it one figure of
// each series.
type Chart struct {
	Title, Unit string
	Better      string   // behind the unit: Less, More, or nothing
	Labels      []string // of the groups
	Series      []string
	Colours     []int       // of the series, so that one has the same in every chart; nil: in order
	Values      [][]Summary // by series, then by group; N is 0 where there is none
	Lines       bool        // join the figures of a series; else a bar for each
	Digits      int         // of the figures written beside bars
}

// Values of Chart.Better.
const (
	Less = "less is better"
	More = "more is better"
)

// Sizes in pixels.
const (
	chartWidth = 860
	marginLeft = 330 // room for the labels of groups
	barHeight  = 13
	groupGap   = 12
	headHeight = 56 // title and legend
	plotHeight = 260
)

// colour is distinct from others for the colour-blind too (Okabe and Ito, then Tol).
func colour(i int) string {
	c := [...]string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#999999", "#000000", "#d55e00", "#56b4e9",
		"#882255", "#44aa99", "#999933", "#332288"}
	return c[i%len(c)]
}

// colour is that of a series.
func (c Chart) colour(i int) string {
	if i < len(c.Colours) {
		i = c.Colours[i]
	}
	return colour(i)
}

// canvas collects elements.
type canvas struct{ strings.Builder }

// open begins a picture, or a part of one that starts at y.
func (w *canvas) open(y, height float64) {
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" y="%.0f" width="%d" height="%.0f" viewBox="0 0 %d %.0f" font-family="sans-serif">`+"\n", y, chartWidth, height, chartWidth, height)
}

func (w *canvas) text(x, y float64, anchor, size, s string) {
	fmt.Fprintf(w, `<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%s">`, x, y, anchor, size)
	_ = xml.EscapeText(w, []byte(s)) // a builder does not fail
	w.WriteString("</text>\n")
}

func (w *canvas) line(x1, y1, x2, y2 float64, stroke string) {
	fmt.Fprintf(w, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, stroke)
}

func (w *canvas) box(x, y, width, height float64, fill string) {
	fmt.Fprintf(w, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, width, height, fill)
}

// SVG draws charts below one another.
func SVG(charts ...Chart) string {
	height := 0.0
	for _, c := range charts {
		height += c.height()
	}
	var w canvas
	w.open(0, height)
	w.box(0, 0, chartWidth, height, "white")
	top := 0.0
	for _, c := range charts {
		w.open(top, c.height())
		c.draw(&w)
		w.WriteString("</svg>\n")
		top += c.height()
	}
	w.WriteString("</svg>\n")
	return w.String()
}

func (c Chart) height() float64 {
	if c.Lines {
		return headHeight + plotHeight + 50
	}
	height := headHeight + 10.0
	for g := range c.Labels {
		height += float64(c.inGroup(g)*barHeight + groupGap)
	}
	return height
}

func (c Chart) draw(w *canvas) {
	title := c.Title + ", " + c.Unit
	if c.Better != "" {
		title += ": " + c.Better
	}
	w.text(10, 20, "start", "15", title)
	x := 10.0
	for i, name := range c.Series {
		w.box(x, 32, 10, 10, c.colour(i))
		w.text(x+14, 41, "start", "12", name)
		x += 34 + 7*float64(len(name))
	}
	if c.Lines {
		c.drawLines(w)
	} else {
		c.drawBars(w)
	}
}

// outlying is how far a single figure may stand out above all medians before it is cut off
// instead of making everything else small.
const outlying = 1.5

// most is what the scale ends at: the largest figure, unless that stands out.
func (c Chart) most() float64 {
	highest, median := 0.0, 0.0
	for _, line := range c.Values {
		for _, s := range line {
			highest, median = max(highest, s.Max), max(median, s.Median)
		}
	}
	switch {
	case highest == 0:
		return 1
	case median > 0:
		return min(highest, outlying*median)
	}
	return highest
}

func (c Chart) inGroup(g int) (n int) {
	for _, line := range c.Values {
		if line[g].N > 0 {
			n++
		}
	}
	return n
}

// drawBars draws medians, and a thin line from the lowest to the highest.
func (c Chart) drawBars(w *canvas) {
	const room = chartWidth - marginLeft - 100
	scale := room / c.most()
	y := float64(headHeight)
	for g, label := range c.Labels {
		n := float64(c.inGroup(g))
		w.text(marginLeft-8, y+n*barHeight/2+4, "end", "12", label)
		for i, line := range c.Values {
			s := line[g]
			if s.N == 0 {
				continue
			}
			w.box(marginLeft, y+1, max(1, s.Median*scale), barHeight-2, c.colour(i))
			middle := y + barHeight/2
			end, figure := marginLeft+min(s.Max*scale, room), Number(s.Median, c.Digits)
			if s.Max*scale > room+0.5 {
				figure += " (… " + Number(s.Max, c.Digits) + ")" // it goes on beyond the picture
			}
			w.line(marginLeft+s.Min*scale, middle, end, middle, "black")
			w.text(end+5, y+barHeight-3, "start", "10", figure)
			y += barHeight
		}
		y += groupGap
	}
	w.line(marginLeft, headHeight-4, marginLeft, y-groupGap+4, "black")
}

// drawLines draws one line per series over evenly spaced groups.
func (c Chart) drawLines(w *canvas) {
	const left, bottom = 70.0, headHeight + plotHeight
	top := roundUp(c.most())
	at := func(g int) float64 {
		return left + (chartWidth-left-60)*(float64(g)+0.5)/float64(len(c.Labels))
	}
	height := func(v float64) float64 { return bottom - v/top*plotHeight }
	for i := range 5 {
		v := top * float64(i) / 4
		w.line(left, height(v), chartWidth-40, height(v), "#dddddd")
		w.text(left-6, height(v)+4, "end", "11", fmt.Sprintf("%.4g", v))
	}
	for g, label := range c.Labels {
		w.text(at(g), bottom+18, "middle", "12", label)
	}
	for i, line := range c.Values {
		var points []string
		for g, s := range line {
			if s.N > 0 {
				points = append(points, fmt.Sprintf("%.1f,%.1f", at(g), height(s.Median)))
				w.line(at(g), height(s.Min), at(g), max(headHeight-4, height(s.Max)), c.colour(i))
				fmt.Fprintf(w, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", at(g), height(s.Median), c.colour(i))
			}
		}
		fmt.Fprintf(w, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), c.colour(i))
	}
}

// roundUp gives the next of 1, 2, 4, 5, 8, 10 and their multiples by tens.
func roundUp(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 4, 5, 8} {
		if v <= m*unit {
			return m * unit
		}
	}
	return 10 * unit
}
