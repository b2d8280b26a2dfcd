package api

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// metricPrefix leads every metric's name, as Prometheus wants it of a program.
const metricPrefix = "epiphyte_"

// metricsText is the text exposition format of Prometheus, version 0.0.4:
// counters end in _total there.
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
			if m.Label != "" {
				fmt.Fprintf(&b, `{%s="%s"}`, m.Label, label.Replace(v.Label))
			}
			fmt.Fprintf(&b, " %d\n", v.N)
		}
	}
	return b.Bytes()
}

// statsJSON is an object with a number for each metric, or an object of numbers
// where there is a label, in the order of the metrics.
func statsJSON(metrics []Metric) []byte {
	b := []byte{'{'}
	key := func(first bool, name string) {
		if !first {
			b = append(b, ',')
		}
		b = append(append(b, encode(name)...), ':')
	}
	for i, m := range metrics {
		key(i == 0, m.Name)
		if m.Label == "" {
			var n uint64
			if len(m.Values) > 0 {
				n = m.Values[0].N
			}
			b = strconv.AppendUint(b, n, 10)
			continue
		}
		b = append(b, '{')
		for k, v := range m.Values {
			key(k == 0, v.Label)
			b = strconv.AppendUint(b, v.N, 10)
		}
		b = append(b, '}')
	}
	return append(b, '}', '\n')
}
