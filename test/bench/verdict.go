package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"epiphyte/test/chart"
)

// outcome is how a goal stands after a run.
type outcome struct {
	goal
	chart.Summary // of the ratios, or of our figures; none: not measured
}

// met tells whether the median reaches a bound.
func (o outcome) met(bound float64) bool {
	if o.lower {
		return o.N > 0 && o.Median <= bound
	}
	return o.N > 0 && o.Median >= bound
}

func (o outcome) verdict() string {
	switch {
	case o.N == 0:
		return "not measured"
	case o.aim != 0 && o.met(o.aim):
		return "aim met"
	case o.met(o.floor):
		return "met"
	}
	return "**not met**"
}

// judge holds the run against those goals whose rows are in it.
func (b *bench) judge(goals []goal) []outcome {
	var list []outcome
	for _, g := range goals {
		if !slices.ContainsFunc(b.rows, func(r row) bool { return r.name == g.row }) {
			continue
		}
		ours := figures(b.samples, g.row, b.peers[0].Label, g.key)
		if len(g.against) == 0 {
			list = append(list, outcome{g, chart.Summarize(slices.Collect(maps.Values(ours)))})
			continue
		}
		list = append(list, outcome{g, chart.Summarize(ratios(ours, b.best(g)))})
	}
	return list
}

// best is the best figure among a goal's peers, by round. A peer that has done
// nothing in a round has no cost in it either.
func (b *bench) best(g goal) map[int]float64 {
	r := g.row
	if g.theirRow != "" {
		r = g.theirRow
	}
	best := map[int]float64{}
	for _, p := range b.peers[1:] {
		if !slices.Contains(g.against, p.Kind) {
			continue
		}
		for round, v := range figures(b.samples, r, p.Label, g.key) {
			if old, ok := best[round]; v > 0 && (!ok || g.lower && v < old || !g.lower && v > old) {
				best[round] = v
			}
		}
	}
	return best
}

// verdictTable is one line per goal.
func verdictTable(w *strings.Builder, heading string, list []outcome) {
	if len(list) == 0 {
		return
	}
	w.WriteString("\n### " + heading + "\n\nMedian (lowest–highest) of ratios taken round by round, with several peers to the best of each round. ↓: lower is better.\n\n" +
		"| goal | row | peer | floor | aim | measured | |\n|---|---|---|--:|--:|--:|---|\n")
	for _, o := range list {
		title, measured, aim := o.title, "", ""
		if o.lower {
			title += " ↓"
		}
		if o.N > 0 {
			measured = fmt.Sprintf("%.2f (%.2f–%.2f)", o.Median, o.Min, o.Max)
		}
		if o.aim != 0 {
			aim = fmt.Sprint(o.aim)
		}
		fmt.Fprintf(w, "| %s | `%s` | %s | %v | %s | %s | %s |\n", title, o.row, o.peerNames(), o.floor, aim, measured, o.verdict())
	}
}
