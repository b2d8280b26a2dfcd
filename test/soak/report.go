package main

import (
	"fmt"
	"strings"
	"time"

	"epiphyte/test/chart"
)

// progress prints a line for whoever watches.
func (r *result) progress() {
	done, bytes := r.sum()
	var w strings.Builder
	fmt.Fprintf(&w, "soak: %v of %v: %d operations, %.1f GB, %d wrong", time.Since(r.begin).Round(time.Second), r.length, done, float64(bytes)/1e9, len(r.wrong()))
	for i, p := range r.processes {
		now := p.samples[len(p.samples)-1]
		separator := ","
		if i == 0 {
			separator = ";"
		}
		fmt.Fprintf(&w, "%s %s %d MB %d fds %d threads", separator, p.name, now.RSS>>20, now.FDs, now.Threads)
	}
	fmt.Fprintln(r.log, w.String())
}

// table gives the figures of a run that is over in markdown.
func (r *result) table() string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n%v of load, seed %d\n\n| what | times | MB | asked again |\n|---|--:|--:|--:|\n", r.length, r.seed)
	for _, name := range r.names {
		c := r.counts[name]
		fmt.Fprintf(&w, "| %s | %d | %d | %d |\n", name, c.done.Load(), c.bytes.Load()/1e6, c.lost.Load())
	}
	w.WriteString("\n| process | figure | idle | second quarter | last quarter | most | after |\n|---|---|--:|--:|--:|--:|--:|\n")
	for _, p := range r.processes {
		for _, f := range figures() {
			name := f.name
			if f.unit != "" {
				name += ", " + f.unit
			}
			fmt.Fprintf(&w, "| %s | %s | %.0f | %.0f | %.0f | %.0f | %.0f |\n", p.name, name,
				f.of(p.idle), f.quarter(p, 1).Median, f.quarter(p, 3).Median, f.summary(p.samples).Max, f.of(p.after))
		}
	}
	return w.String()
}

// points are how many a plot has.
const points = 30

// plot draws each figure over time: the median of a thirtieth of the load, and a line
// from the lowest to the highest.
func (r *result) plot() string {
	var charts []chart.Chart
	for _, f := range figures() {
		c := chart.Chart{Title: strings.ToUpper(f.name[:1]) + f.name[1:] + fmt.Sprintf(" during %v of load, seed %d", r.length, r.seed), Unit: f.unit, Lines: true}
		if c.Unit == "" {
			c.Unit = "number"
		}
		for i := range points {
			label := ""
			if i%5 == 4 {
				label = (r.length * time.Duration(i+1) / points).String()
			}
			c.Labels = append(c.Labels, label)
		}
		for _, p := range r.processes {
			var line []chart.Summary
			for i := range points {
				n := len(p.samples)
				line = append(line, f.summary(p.samples[n*i/points:n*(i+1)/points]))
			}
			c.Series, c.Values = append(c.Series, p.name), append(c.Values, line)
		}
		charts = append(charts, c)
	}
	return chart.SVG(charts...)
}
