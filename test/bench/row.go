package main

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// row is a workload. Each of its metrics is a line of the table.
type row struct {
	name    string
	mtu     int
	helpers bool // means nothing for a ceiling
	extra   bool // measured only when asked for by name
	samples int  // to take over all rounds, at least; 0: one a round
	starts  bool // it starts the helper itself
	metrics []metric
	run     func(context.Context, *scene, time.Duration) (values, error)

	face      bool       // ours is called by pasta's name
	neighbour bool       // the server is in another guest, on the same network
	published *published // the server is in the guest; nil: on the host
	dns       bool       // the server is the host's resolver
	policy    string     // the guest is under it; empty: under none
	cpus      int        // processors that the helper is kept to; 0: all
	together  bool       // client, helper and server are kept to one processor
	beside    bool       // beside a program that never rests
	groups    []string   // names that ask for it together with others
	needs     []string   // programs that it is measured with, found by [lookup]
}

// values of one sample, by [metric.key].
type values map[string]float64

// metric is one figure of a row.
type metric struct {
	key     string
	title   string // of the table's line
	unit    string
	lower   bool // lower is better
	digits  int  // after the point
	helpers bool // a ceiling has no such figure
	alone   bool // a ratio of such figures means nothing
}

// Lengths that rows have in common.
const (
	chunk   = 128 << 10 // bytes of a write or a read of a stream, as iperf3's
	bigMTU  = 65520     // the largest that helpers agree on
	jumboMT = 9000
	etherMT = 1500
	settle  = 300 * time.Millisecond // slow start and the growth of buffers
)

// allRows in the order of the table.
func allRows() []row {
	var rows []row
	for _, mtu := range []int{bigMTU, etherMT} {
		for _, streams := range []int{1, 4, 16} {
			rows = append(rows, stream("out", loadSend, streams, mtu), stream("in", loadReceive, streams, mtu))
		}
	}
	rows = append(rows, stream("out", loadSend, 1, jumboMT), stream("in", loadReceive, 1, jumboMT))
	rows = append(rows, roundTrip("tcp", loadEcho, "TCP"), roundTrip("udp", loadEchoUDP, "UDP"))
	rows = append(rows, pinned(roundTrip("tcp-pinned", loadEcho, "TCP on one processor:")), pinned(roundTrip("udp-pinned", loadEchoUDP, "UDP on one processor:")))
	for _, parallel := range []int{1, 16, 64} {
		rows = append(rows, connects(parallel))
	}
	for _, size := range []int{1400, 64} {
		rows = append(rows, packets(size), flood(size))
	}
	rows = append(rows, packets(512), packets(8000), packetsDefault(1400), bursts(), packetsIn(1400), burstsIn(), queries("dns-one", loadDNS, "by one socket"), queries("dns-fresh", loadDNSFresh, "by a new socket each"))
	rows = append(rows, publishedRows()...)
	rows = append(rows, neighbourRows()...)
	rows = append(rows, startUp(), firstByte(), idle(), busy("out", loadSend), busy("in", loadReceive))
	for _, n := range []int{1000, 5000, 9000} {
		rows = append(rows, hold(n))
	}
	rows = append(rows, denials())
	rows = append(rows, faceRows(rows)...)
	rows = append(rows, coreRows()...)
	rows = append(rows, programRows()...)
	for _, streams := range []int{1, 4} {
		rows = append(rows, iperf("out", streams), iperf("in", streams, "-R"))
	}
	return rows
}

// groups are names for rows that are measured for one purpose.
func groups() map[string][]string {
	g := map[string][]string{}
	for _, x := range goals() {
		g["goals"] = append(g["goals"], x.row)
	}
	for _, x := range floors() {
		g["floors"] = append(g["floors"], x.row)
	}
	for _, x := range growths() {
		for _, p := range x.points {
			g["growth"] = append(g["growth"], p.row)
		}
	}
	for _, r := range programRows() {
		for _, group := range r.groups {
			g[group] = append(g[group], r.name)
		}
	}
	return g
}

// selectRows picks rows by the patterns and groups asked for, in the order of the table.
func selectRows(o options) ([]row, error) {
	var patterns []string
	for _, p := range strings.FieldsFunc(o.rows, func(r rune) bool { return r == ',' || r == ' ' }) {
		if members := groups()[p]; members != nil {
			patterns = append(patterns, members...)
		} else {
			patterns = append(patterns, p)
		}
	}
	used := make([]bool, len(patterns))
	rows := slices.DeleteFunc(allRows(), func(r row) bool {
		if len(patterns) == 0 {
			return r.extra
		}
		matched := false
		for i, p := range patterns {
			if ok, _ := path.Match(p, r.name); ok && (!r.extra || !strings.ContainsAny(p, "*?[") || p == "*") {
				used[i], matched = true, true
			}
		}
		return !matched
	})
	for i, ok := range used {
		if !ok {
			return nil, fmt.Errorf("no row matches %q; -list names them", patterns[i])
		}
	}
	return rows, nil
}

// listRows names the rows for a reader.
func listRows(w io.Writer) {
	for _, r := range allRows() {
		note := ""
		if r.extra {
			note = " (only when named)"
		}
		for i, m := range r.metrics {
			name := r.name
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(w, "%-32s %s, %s%s\n", name, m.title, m.unit, note)
		}
	}
}

// stream is TCP without pause. Counted is what the receiver has read.
func stream(way, kind string, streams, mtu int) row {
	title := fmt.Sprintf("TCP %s, %s, MTU %d", way, plural(streams, "stream"), mtu)
	return row{
		name:  fmt.Sprintf("tcp-%s-%d-%d", way, streams, mtu),
		mtu:   mtu,
		extra: streams > 4 || mtu == jumboMT,
		metrics: []metric{
			{key: "gbps", title: title, unit: "Gbit/s", digits: 1},
			{key: "cpu_s_per_gb", title: title, unit: "helper CPU s/GB", lower: true, digits: 2, helpers: true},
		},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			t, err := s.newTraffic(ctx, load{Kind: kind, Threads: streams, Size: chunk, ready: streams})
			if err != nil {
				return nil, err
			}
			defer t.close()
			w, err := t.window(ctx, settle, window)
			if err != nil {
				return nil, err
			}
			v := values{"gbps": w.done * 8 / 1e9 / w.seconds}
			if s.published != nil && s.published.external {
				v["source_kept"] = t.sourceKept()
			}
			if w.done > 0 {
				v["cpu_s_per_gb"] = w.cpu / (w.done / 1e9)
			}
			return v, nil
		},
	}
}

// pinned keeps client, helper and server to one processor: what is measured is work and
// the change from one to the next alone.
func pinned(r row) row {
	r.together = true
	return r
}

// roundTrip is one byte to and fro, again and again.
func roundTrip(name, kind, title string) row {
	return row{
		name: "rtt-" + name,
		mtu:  bigMTU,
		// Where the scheduler happens to put client, helper and server makes a
		// difference of several times, and holds for most of a sample: short samples,
		// many of them.
		samples: 15,
		metrics: []metric{
			{key: "p50_us", title: title + " round trip of 1 byte, p50", unit: "µs", lower: true},
			{key: "p99_us", title: title + " round trip of 1 byte, p99", unit: "µs", lower: true},
			{key: "cpu_us_per_op", title: title + " round trip of 1 byte", unit: "helper CPU µs", lower: true, helpers: true},
		},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			t, err := s.newTraffic(ctx, load{Kind: kind, Threads: 1, Size: 1, ready: 1})
			if err != nil {
				return nil, err
			}
			defer t.close()
			w, err := t.window(ctx, settle/3, window/3)
			if err != nil {
				return nil, err
			}
			if len(w.delays) == 0 {
				return nil, fmt.Errorf("no round trip in %v", window)
			}
			return values{
				"p50_us":            percentile(w.delays, 50) / 1e3,
				"p99_us":            percentile(w.delays, 99) / 1e3,
				"cpu_us_per_op":     w.cpu * 1e6 / w.done,
				"all_cpu_us_per_op": w.all * 1e6 / w.done,
				"errors":            float64(t.errors.Load()),
			}, nil
		},
	}
}

// connects is connect, one byte to and fro, close.
func connects(parallel int) row {
	title := fmt.Sprintf("connect + 1 byte + close, %d parallel", parallel)
	return row{
		name:  fmt.Sprintf("connect-%d", parallel),
		mtu:   bigMTU,
		extra: parallel > 16,
		metrics: []metric{
			{key: "per_s", title: title, unit: "per s"},
			{key: "cpu_us_per_op", title: title, unit: "helper CPU µs", lower: true, helpers: true},
		},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			t, err := s.newTraffic(ctx, load{Kind: loadConnect, Threads: parallel, ready: 1})
			if err != nil {
				return nil, err
			}
			defer t.close()
			return t.operations(ctx, window)
		},
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
