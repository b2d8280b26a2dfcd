package main

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/chart"
)

// Markers between which a document holds the report of a run.
const (
	markBegin = "<!-- bench:begin -->"
	markEnd   = "<!-- bench:end -->"
)

// replaceSection puts a report between the markers of a document.
func replaceSection(doc, section string) (string, error) {
	before, rest, ok := strings.Cut(doc, markBegin)
	if !ok {
		return "", fmt.Errorf("document has no %s", markBegin)
	}
	_, after, ok := strings.Cut(rest, markEnd)
	if !ok {
		return "", fmt.Errorf("document has no %s", markEnd)
	}
	return before + markBegin + "\n" + strings.TrimSpace(section) + "\n" + markEnd + after, nil
}

// report is the table of a run with what is needed to judge it.
func (b *bench) report() string {
	var w strings.Builder
	how := "recorded samples"
	if !b.recorded {
		how = fmt.Sprintf("%s, %v a sample, %v in all", plural(b.options.rounds, "round"), b.options.window, time.Since(b.begin).Round(time.Second))
	}
	fmt.Fprintf(&w, "%s; %s; %d CPUs (%s), Linux %s, %s; congestion control reno on both sides.\n\n",
		b.begin.UTC().Format("2006-01-02"), how, runtime.NumCPU(), cpuModel(), kernel(), runtime.Version())
	for _, p := range b.peers {
		switch {
		case p.Missing != "":
			fmt.Fprintf(&w, "- %s: SKIP, %s\n", p.Label, p.Missing)
		case len(p.Args) > 0:
			fmt.Fprintf(&w, "- %s: %s, with `%s`\n", p.Label, p.Version, strings.Join(p.Args, " "))
		case !p.ceiling():
			fmt.Fprintf(&w, "- %s: %s\n", p.Label, p.Version)
		}
	}
	w.WriteString("\nMedian (lowest–highest). ↓: lower is better. `x/y`: the median of ratios taken round by round.\n\n")
	b.table(&w)
	if b.options.quick {
		verdictTable(&w, "Recorded floors", b.judge(floors()))
	} else {
		verdictTable(&w, "Goals", b.judge(goals()))
		b.growthTables(&w)
	}
	b.failures(&w)
	return w.String()
}

// table is one line per metric, one column per peer, and our ratio to each.
func (b *bench) table(w *strings.Builder) {
	peers := slices.DeleteFunc(slices.Clone(b.peers), func(p peer) bool {
		return p.Missing != "" || !slices.ContainsFunc(b.rows, p.takes)
	})
	if len(peers) == 0 {
		return
	}
	head, rule := "| | unit |", "|---|---|"
	for _, p := range peers {
		head += " " + p.Label + " |"
		rule += "--:|"
	}
	for _, p := range compared(peers) {
		head += " " + peers[0].Label + "/" + p.Label + " |"
		rule += "--:|"
	}
	fmt.Fprintf(w, "%s\n%s\n", head, rule)
	for _, r := range b.rows {
		for _, m := range r.metrics {
			b.line(w, r, m, peers)
		}
	}
}

func (b *bench) line(w *strings.Builder, r row, m metric, peers []peer) {
	title := m.title
	if m.lower {
		title += " ↓"
	}
	fmt.Fprintf(w, "| %s | %s |", title, m.unit)
	for _, p := range peers {
		fmt.Fprintf(w, " %s |", b.cell(r, m, p))
	}
	ours := figures(b.samples, r.name, peers[0].Label, m.key)
	for _, p := range compared(peers) {
		x, ok := ratio(ours, figures(b.samples, r.name, p.Label, m.key))
		switch {
		case !ok || m.alone:
			w.WriteString(" |")
		case x < 100:
			fmt.Fprintf(w, " %.2f |", x)
		default: // theirs has stalled
			w.WriteString(" > 100 |")
		}
	}
	w.WriteString("\n")
}

// compared are the peers that the first is set against: the other helpers.
func compared(peers []peer) []peer {
	return slices.DeleteFunc(slices.Clone(peers[1:]), peer.ceiling)
}

// cell is what a peer did: a figure, SKIP, or nothing where none is to be had.
func (b *bench) cell(r row, m metric, p peer) string {
	if !p.takes(r) || p.ceiling() && m.helpers {
		return ""
	}
	f := figures(b.samples, r.name, p.Label, m.key)
	if len(f) == 0 {
		if slices.ContainsFunc(b.samples, func(s sample) bool { return s.Row == r.name && s.Peer == p.Label && s.Failed == "" }) {
			return "–" // it was measured, but there is nothing to divide by
		}
		return "SKIP"
	}
	s := chart.Summarize(slices.Collect(maps.Values(f)))
	text := chart.Number(s.Median, m.digits)
	if s.N > 1 {
		text += " (" + chart.Number(s.Min, m.digits) + "–" + chart.Number(s.Max, m.digits) + ")"
	}
	return text
}

// failures tells the reason of every sample that has none, once for each row,
// peer and reason, and the operations that failed in those that have.
func (b *bench) failures(w *strings.Builder) {
	var lines []string
	count := map[string]int{}
	for _, s := range b.samples {
		line := ""
		switch {
		case s.Failed != "":
			line = fmt.Sprintf("%s, %s: %s", s.Row, s.Peer, s.Failed)
		case s.Values["errors"] > 0:
			line = fmt.Sprintf("%s, %s: some operations failed and were repeated", s.Row, s.Peer)
		default:
			continue
		}
		if count[line]++; count[line] == 1 {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return
	}
	w.WriteString("\nWithout a figure, or with failures:\n\n")
	for _, line := range lines {
		fmt.Fprintf(w, "- %s (%s)\n", line, plural(count[line], "sample"))
	}
}

// cpuModel is the processor as the kernel names it.
func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

// kernel is the kernel's version without what its builder has added.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown version"
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	return release
}
