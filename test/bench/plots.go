package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"epiphyte/test/chart"
)

// plot is a chart of one metric over some rows.
type plot struct {
	name, title, key string
	rows             string // patterns, space-separated
}

func plots() []plot {
	return []plot{
		{"tcp", "TCP by the helper", "gbps", "tcp-*-65520"},
		{"tcp-1500", "TCP by the helper", "gbps", "tcp-*-1500"},
		{"tcp-cpu", "TCP by the helper, cost", "cpu_s_per_gb", "tcp-*"},
		{"published", "TCP by a published port", "gbps", "published-*"},
		{"latency", "Round trip, p50", "p50_us", "rtt-* published*-rtt-*"},
		{"connections", "Short connections", "per_s", "connect-* published*-connect-*"},
		{"udp", "UDP", "kpps", "udp-*"},
		{"dns", "DNS", "per_s", "dns-*"},
		{"start", "Start", "ms", "start*"},
		{"memory", "Memory", "rss_mb", "idle rss-*"},
	}
}

// pictures are the charts of a run by name, of those plots that it has figures for.
func (b *bench) pictures() map[string]string {
	drawn := map[string]string{}
	for _, p := range plots() {
		if c, ok := b.chart(p); ok {
			drawn[p.name] = chart.SVG(c)
		}
	}
	for _, g := range growths() {
		c := chart.Chart{Title: strings.ToUpper(g.title[:1]) + g.title[1:] + " by " + g.by, Unit: g.unit, Lines: true}
		for _, p := range g.points {
			c.Labels = append(c.Labels, p.label)
		}
		if c.Series, c.Values = b.grown(g); len(c.Series) > 0 {
			drawn[g.name] = chart.SVG(c)
		}
	}
	return drawn
}

func (b *bench) chart(p plot) (c chart.Chart, ok bool) {
	c.Title = p.title
	c.Values = make([][]chart.Summary, len(b.peers))
	for _, q := range b.peers {
		c.Series = append(c.Series, q.Label)
	}
	for _, r := range b.rows {
		i := slices.IndexFunc(r.metrics, func(m metric) bool { return m.key == p.key })
		if i < 0 || !slices.ContainsFunc(strings.Fields(p.rows), func(pattern string) bool {
			hit, _ := path.Match(pattern, r.name)
			return hit
		}) {
			continue
		}
		c.Labels = append(c.Labels, r.name)
		c.Unit, c.Digits = r.metrics[i].unit, r.metrics[i].digits
		for j, q := range b.peers {
			s := chart.Summary{}
			if !q.ceiling() || !r.metrics[i].helpers {
				s = chart.Summarize(slices.Collect(maps.Values(figures(b.samples, r.name, q.Label, p.key))))
			}
			ok = ok || s.N > 0
			c.Values[j] = append(c.Values[j], s)
		}
	}
	return c, ok
}

// pictureLinks are for a document whose pictures are in a directory of its name.
func pictureLinks(drawn map[string]string, doc string) string {
	if len(drawn) == 0 {
		return ""
	}
	var w strings.Builder
	w.WriteString("\n### Plots\n\n")
	for _, name := range slices.Sorted(maps.Keys(drawn)) {
		fmt.Fprintf(&w, "![%s](%s/%s.svg)\n", name, strings.TrimSuffix(filepath.Base(doc), ".md"), name)
	}
	return w.String()
}

// savePictures writes what the runner has drawn, in the stage that has the
// user's own uid.
func savePictures(from *os.File, doc string) error {
	info, err := from.Stat()
	if err != nil || info.Size() == 0 {
		return err // the run has failed, and said so
	}
	text := make([]byte, info.Size())
	if _, err := from.ReadAt(text, 0); err != nil {
		return fmt.Errorf("read pictures: %w", err)
	}
	var drawn map[string]string
	if err := json.Unmarshal(text, &drawn); err != nil {
		return fmt.Errorf("read pictures: %w", err)
	}
	dir := strings.TrimSuffix(doc, ".md")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, svg := range drawn {
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	return nil
}
