package api

import (
	"bytes"
	"fmt"
	"strings"
)

// Metric is one measured quantity: a single value, or one for each value of a
// label.
type Metric struct {
	Name    string // lower case words joined by underscores, unit last: sent_bytes
	Help    string // one sentence without a period
	Counter bool   // only grows; otherwise a gauge
	Label   string // name of the label; empty: Values has one element
	Values  []Value
}

// Value is one value of a metric.
type Value struct {
	Member string // the member of a network that it is about, a label as well; empty: none
	Label  string
	N      uint64
}

const memberLabel = "member"

// key joins the value's labels.
func (v *Value) key() string { return strings.TrimLeft(v.Member+" "+v.Label, " ") }

// metricPrefix begins every name, as Prometheus recommends for a program.
const metricPrefix = "epiphyte_"

// metricsText writes the text exposition format of Prometheus, version 0.0.4, in which
// counters end in _total.
func metricsText(metrics []Metric) []byte {
	var b bytes.Buffer
	help := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	label := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	for _, m := range metrics {
		name, kind := metricPrefix+m.Name, "gauge"
		if m.Counter {
			name, kind = name+"_total", "counter"
		}
		fmt.Fprintf(&b, "# HELP %s %s.\n# TYPE %s %s\n", name, help.Replace(m.Help), name, kind)
		for _, v := range m.Values {
			b.WriteString(name)
			switch {
			case v.Member != "":
				fmt.Fprintf(&b, `{%s="%s",%s="%s"}`, memberLabel, label.Replace(v.Member), m.Label, label.Replace(v.Label))
			case m.Label != "":
				fmt.Fprintf(&b, `{%s="%s"}`, m.Label, label.Replace(v.Label))
			}
			fmt.Fprintf(&b, " %d\n", v.N)
		}
	}
	return b.Bytes()
}

// statsJSON writes an object with a number for each metric, or an object of numbers if it has
// a label, in the order of the metrics.
func statsJSON(metrics []Metric) []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range metrics {
		separate(&b, i)
		fmt.Fprintf(&b, "%s:", encode(m.Name))
		if m.Label == "" {
			fmt.Fprintf(&b, "%d", m.Values[0].N)
			continue
		}
		b.WriteByte('{')
		for j, v := range m.Values {
			separate(&b, j)
			fmt.Fprintf(&b, "%s:%d", encode(v.key()), v.N)
		}
		b.WriteByte('}')
	}
	b.WriteByte('}')
	return b.Bytes()
}

// separate writes the comma before all elements but the first.
func separate(b *bytes.Buffer, index int) {
	if index > 0 {
		b.WriteByte(',')
	}
}
