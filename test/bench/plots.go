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
		{"programs", "Real programs", "per_s", "redis-get wrk wrk-close h2load http-go pgbench dnsperf"},
		{"programs-published", "Real programs, by a published port", "per_s", "published-redis-get published-wrk published-wrk-close published-h2load published-http-go published-pgbench published-dnsperf"},
		{"programs-cpu", "Real programs, cost", "cpu_us_per_op", "redis-get wrk wrk-close h2load http-go pgbench dnsperf"},
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
		c.Better = better(b.lower(g.key))
		if c.Series, c.Values = b.grown(g); len(c.Series) > 0 {
			for _, label := range c.Series {
				c.Colours = append(c.Colours, b.colour(label))
			}
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
		c.Colours = append(c.Colours, b.colour(q.Label))
	}
	for _, r := range b.rows {
		i := slices.IndexFunc(r.metrics, func(m metric) bool { return m.key == p.key })
		if i < 0 || !slices.ContainsFunc(strings.Fields(p.rows), func(pattern string) bool {
			hit, _ := path.Match(pattern, r.name)
			return hit
		}) {
			continue
		}
		c.Labels = append(c.Labels, r.metrics[i].title)
		c.Unit, c.Digits, c.Better = r.metrics[i].unit, r.metrics[i].digits, better(r.metrics[i].lower)
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

// colour is a peer's, the same in every picture and every run: that of its kind, or one
// behind those of all kinds, for a second peer of a kind.
func (b *bench) colour(label string) int {
	if i := slices.Index(kinds(), label); i >= 0 {
		return i
	}
	return len(kinds()) + slices.IndexFunc(b.peers, func(p peer) bool { return p.Label == label })
}

func better(lower bool) string {
	if lower {
		return chart.Less
	}
	return chart.More
}

// lower reports whether less is better of a metric.
func (b *bench) lower(key string) bool {
	return slices.ContainsFunc(b.rows, func(r row) bool {
		return slices.ContainsFunc(r.metrics, func(m metric) bool { return m.key == key && m.lower })
	})
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
