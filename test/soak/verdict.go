package main

import (
	"fmt"

	"epiphyte/test/chart"
	"epiphyte/test/harness"
)

// quarter gives the samples of one, 0 to 3, as figures.
func (f figure) quarter(p *process, q int) chart.Summary {
	n := len(p.samples)
	return f.summary(p.samples[n*q/4 : n*(q+1)/4])
}

func (f figure) summary(samples []harness.Usage) chart.Summary {
	var v []float64
	for _, u := range samples {
		v = append(v, f.of(u))
	}
	return chart.Summarize(v)
}

// level says what has grown while the load lasted, once the warm-up of a quarter was
// over. Medians do not mind a burst in either quarter.
func (p *process) level() (faults []string) {
	for _, f := range figures() {
		second, last := f.quarter(p, 1).Median, f.quarter(p, 3).Median
		if most := second*(1+f.part) + f.fixed; last > most {
			faults = append(faults, fmt.Sprintf("%s: %s have grown under a steady load: %.1f %s in the second quarter, %.1f in the last, at most %.1f is level",
				p.name, f.name, second, f.unit, last, most))
		}
	}
	return faults
}

// back says what is held after the load and was not before it; each mapping that is
// there yet has a descriptor.
func (p *process) back(mapped int) (faults []string) {
	for _, f := range figures() {
		most := f.of(p.idle) + f.kept
		if f.name == "descriptors" {
			most += float64(mapped)
		}
		if now := f.of(p.after); now > most {
			faults = append(faults, fmt.Sprintf("%s: %s have not come back after the load: %.1f %s idle, %.1f now, at most %.1f is as before",
				p.name, f.name, f.of(p.idle), f.unit, now, most))
		}
	}
	return faults
}
