package main

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"epiphyte/test/chart"
)

// growth is how one figure changes with the size of a workload.
type growth struct {
	name   string // of its plot
	title  string
	unit   string
	by     string // what grows
	key    string
	digits int
	points []point
}

// point is a size and the row that is measured at it.
type point struct{ label, row string }

// series names a row for each size.
func series(pattern string, sizes ...int) []point {
	var list []point
	for _, n := range sizes {
		list = append(list, point{strconv.Itoa(n), fmt.Sprintf(pattern, n)})
	}
	return list
}

// coreCounts are 1, 2, 4 and so on to all that there are.
func coreCounts() (list []int) {
	for n := 1; n < runtime.NumCPU(); n *= 2 {
		list = append(list, n)
	}
	return append(list, runtime.NumCPU())
}

// growths are measured by ROWS=growth.
func growths() []growth {
	list := []growth{
		{"growth-connections-memory", "memory", "MB", "idle connections", "growth_mb", 1, series("hold-%d", 1000, 5000, 9000)},
		{"growth-connections-time", "time to open", "s", "idle connections", "open_s", 2, series("hold-%d", 1000, 5000, 9000)},
		{"growth-connections-cpu", "cost of a connection that is held", "helper CPU µs", "idle connections", "cpu_us_per_op", 0, series("hold-%d", 1000, 5000, 9000)},
		{"growth-parallel", "cost of a short connection", "helper CPU µs", "parallel clients", "cpu_us_per_op", 0, series("connect-%d", 1, 16, 64)},
		{"growth-packet", "cost of a datagram out", "helper CPU µs", "bytes of a datagram", "cpu_us_per_packet", 1, series("udp-%d", 64, 512, 1400, 8000)},
	}
	for _, way := range []string{"out", "in"} {
		list = append(list,
			growth{"growth-streams-" + way, "TCP " + way + ", throughput", "Gbit/s", "streams", "gbps", 1, series("tcp-"+way+"-%d-65520", 1, 4, 16)},
			growth{"growth-streams-" + way + "-cpu", "TCP " + way + ", cost of bytes", "helper CPU s/GB", "streams", "cpu_s_per_gb", 2, series("tcp-"+way+"-%d-65520", 1, 4, 16)},
			growth{"growth-mtu-" + way, "TCP " + way + ", 1 stream, cost of bytes", "helper CPU s/GB", "MTU", "cpu_s_per_gb", 2, series("tcp-"+way+"-1-%d", etherMT, jumboMT, bigMTU)},
			growth{"growth-cores-" + way, "TCP " + way + ", 4 streams, throughput", "Gbit/s", "processors of the helper", "gbps", 1, series("cores-%d-tcp-"+way+"-4-65520", coreCounts()...)},
		)
	}
	return append(list, growth{"growth-cores-connect", "16 parallel clients, short connections", "per s", "processors of the helper", "per_s", 0, series("cores-%d-connect-16", coreCounts()...)})
}

// coreRows keep the helper, and nothing else, to some of the processors.
func coreRows() []row {
	var rows []row
	for _, n := range coreCounts() {
		for _, r := range []row{stream("out", loadSend, 4, bigMTU), stream("in", loadReceive, 4, bigMTU), connects(16)} {
			r.name = fmt.Sprintf("cores-%d-%s", n, r.name)
			r.cpus, r.extra, r.helpers = n, true, true
			for i := range r.metrics {
				r.metrics[i].title += ", helper on " + plural(n, "processor")
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// growthTables are one per growth that the run has measured, with the sizes side
// by side.
func (b *bench) growthTables(w *strings.Builder) {
	heading := "\n### How cost grows\n"
	for _, g := range growths() {
		names, lines := b.grown(g)
		if len(lines) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s\n%s, %s\n\n| %s |", heading, strings.ToUpper(g.title[:1])+g.title[1:], g.unit, g.by)
		heading = ""
		for _, p := range g.points {
			fmt.Fprintf(w, " %s |", p.label)
		}
		w.WriteString("\n|---|" + strings.Repeat("--:|", len(g.points)) + "\n")
		for i, line := range lines {
			fmt.Fprintf(w, "| %s |", names[i])
			for _, s := range line {
				if s.N == 0 {
					w.WriteString(" |")
					continue
				}
				fmt.Fprintf(w, " %s |", chart.Number(s.Median, g.digits))
			}
			w.WriteString("\n")
		}
	}
}

// grown gives the figures of each peer that has some, at each size; none unless
// every size is in the run.
func (b *bench) grown(g growth) (names []string, lines [][]chart.Summary) {
	for _, at := range g.points {
		if !slices.ContainsFunc(b.rows, func(r row) bool { return r.name == at.row }) {
			return nil, nil
		}
	}
	for _, p := range b.peers {
		var line []chart.Summary
		measured := 0
		for _, at := range g.points {
			s := chart.Summarize(slices.Collect(maps.Values(figures(b.samples, at.row, p.Label, g.key))))
			if s.N > 0 {
				measured++
			}
			line = append(line, s)
		}
		if measured > 1 && !(p.ceiling() && strings.Contains(g.key, "cpu")) {
			names, lines = append(names, p.Label), append(lines, line)
		}
	}
	return names, lines
}
