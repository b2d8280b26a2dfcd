package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"epiphyte/test/chart"
)

func TestParsePeers(t *testing.T) {
	got, err := parsePeers("epiphyte,rootlesskit-old=/usr/bin/rootlesskit, pasta-new=/opt/pasta --flag x,,veth")
	want := []peer{
		{Label: "epiphyte", Kind: kindOurs},
		{Label: "rootlesskit-old", Kind: kindKit, Path: "/usr/bin/rootlesskit", Args: []string{}},
		{Label: "pasta-new", Kind: kindPasta, Path: "/opt/pasta", Args: []string{"--flag", "x"}},
		{Label: "veth", Kind: kindVeth},
	}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	for _, bad := range []string{"", "passt", "veth=/bin/true", "pasta=", "pasta,pasta"} {
		if _, err := parsePeers(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestSelectRows: extra rows are measured only when asked for by name.
func TestSelectRows(t *testing.T) {
	names := func(patterns string) (names []string) {
		rows, err := selectRows(options{rows: patterns})
		if err != nil {
			t.Error(err)
		}
		for _, r := range rows {
			names = append(names, r.name)
		}
		return names
	}
	if d := cmp.Diff([]string{"rtt-tcp", "connect-1", "connect-16", "connect-64", "connect-go-1", "connect-go-16"}, names("connect-64,rtt-tcp connect-*")); d != "" {
		t.Error(d)
	}
	for _, name := range names("") {
		if name == "connect-64" || strings.HasPrefix(name, "iperf3") {
			t.Errorf("%s is measured unasked", name)
		}
	}
	if got := names("programs-beside"); !slices.Contains(got, "beside-published-wrk") || slices.Contains(got, "wrk") {
		t.Errorf("programs-beside is %v", got)
	}
	if got := names("growth"); !slices.Contains(got, "hold-9000") || slices.Contains(got, "idle") {
		t.Errorf("growth is %v", got)
	}
	if _, err := selectRows(options{rows: "rtt-tcp,nosuch*"}); err == nil {
		t.Error("a pattern without rows is accepted")
	}
}

// TestPortDriverIsMeasuredByPublishedRowsAlone and has no column without them.
func TestPortDriverIsMeasuredByPublishedRowsAlone(t *testing.T) {
	kit := peer{Label: kindKit, Kind: kindKit}
	for _, r := range allRows() {
		if name := withoutVariant(r.name); kit.takes(r) != strings.HasPrefix(name, "published") {
			t.Errorf("%s: taken is %v", r.name, kit.takes(r))
		}
	}
	b := &bench{rows: []row{stream("out", loadSend, 1, bigMTU)}, peers: []peer{{Label: kindOurs, Kind: kindOurs}, kit}}
	var w strings.Builder
	if b.table(&w); strings.Contains(w.String(), kindKit) {
		t.Error(w.String())
	}
}

// withoutVariant is the name of the row that another one is a variant of.
func withoutVariant(name string) string {
	for _, v := range variants() {
		name = strings.TrimPrefix(name, v.name+"-")
	}
	return name
}

// TestNetworksAreMeasuredByNeighbourRowsAlone and by those who have networks.
func TestNetworksAreMeasuredByNeighbourRowsAlone(t *testing.T) {
	for _, r := range allRows() {
		neighbour := strings.HasPrefix(r.name, "neighbour")
		for _, kind := range kinds() {
			if kind == kindOurs {
				continue
			}
			network := kind == kindBridge || kind == kindVDE
			if taken := (peer{Kind: kind}).takes(r); taken && neighbour != network {
				t.Errorf("%s: taken by %s", r.name, kind)
			}
		}
		if neighbour && !((peer{Kind: kindBridge}).takes(r) && (peer{Kind: kindOurs}).takes(r)) {
			t.Errorf("%s: not taken", r.name)
		}
	}
}

func TestEnvironmentGivesDefaults(t *testing.T) {
	vars := map[string]string{"ROWS": "rtt-*", "ROUNDS": "5", "PEERS": "veth"}
	o, err := parse([]string{"-rounds", "7"}, func(k string) string { return vars[k] })
	if err != nil || o.rows != "rtt-*" || o.rounds != 7 || o.peers != "veth" {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{{"-rounds", "-1"}, {"-rows", "nosuch"}, {"-peers", "nosuch"}, {"-window", "-1s"}, {"stray"}} {
		if _, err := parse(args, func(string) string { return "" }); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

// TestSearchFindsTheRate of a path that carries so much and no more, to a
// sixteenth of the last doubling.
func TestSearchFindsTheRate(t *testing.T) {
	for _, c := range []struct{ path, sender, want float64 }{
		{path: 100e3, sender: 1e9, want: 100},
		{path: 5e3, sender: 1e9, want: 5},
		{path: 1e9, sender: 200e3, want: 200}, // the sender is the limit
		{path: 0, sender: 1e9, want: 0},
	} {
		v, err := search(func(rate float64) (span, error) {
			sent := min(rate, c.sender)
			return span{seconds: 1, sent: sent, done: min(sent, c.path)}, nil
		})
		if got := v["kpps"]; err != nil || got > c.want*1.011 || got < c.want*15/16 {
			t.Errorf("path %v, sender %v: %v kpackets/s, %v; want %v", c.path, c.sender, got, err, c.want)
		}
	}
}

// TestSearchOutlivesBadLuck: a rate that fails although all others are carried,
// those above it too, is not the limit; and one that always fails is.
func TestSearchOutlivesBadLuck(t *testing.T) {
	for _, c := range []struct{ failures, want float64 }{{2, 400}, {1e9, 128}} {
		failures := c.failures
		v, err := search(func(rate float64) (span, error) {
			if rate == 8*firstRate && failures > 0 {
				failures--
				return span{seconds: 1, sent: rate}, nil
			}
			return span{seconds: 1, sent: rate, done: min(rate, 400e3)}, nil
		})
		if got := v["kpps"]; err != nil || got > c.want*1.011 || got < c.want*15/16 {
			t.Errorf("%v failures: %v kpackets/s, %v; want %v", c.failures, got, err, c.want)
		}
	}
}

// TestRatioIsTakenRoundByRound: a machine that was half as fast in one round
// leaves it alone.
func TestRatioIsTakenRoundByRound(t *testing.T) {
	ours := map[int]float64{0: 10, 1: 5, 2: 10, 3: 7}
	theirs := map[int]float64{0: 5, 1: 2.5, 2: 5, 4: 1}
	if r, ok := ratio(ours, theirs); !ok || r != 2 {
		t.Errorf("ratio is %v, %v", r, ok)
	}
	if _, ok := ratio(ours, map[int]float64{0: 0}); ok {
		t.Error("a ratio to nothing")
	}
}

func TestPercentileAndSummary(t *testing.T) {
	if p := percentile([]uint32{1, 2, 3, 4}, 99); p != 4 {
		t.Errorf("p99 is %v", p)
	}
	if p := percentile(nil, 50); p != 0 {
		t.Errorf("p50 of nothing is %v", p)
	}
	if s := chart.Summarize([]float64{3, 1, 2, 10}); s != (chart.Summary{Median: 2.5, Min: 1, Max: 10, N: 4}) {
		t.Errorf("%+v", s)
	}
}

func TestReplaceSection(t *testing.T) {
	doc := "a\n" + markBegin + "\nold\n" + markEnd + "\nb\n"
	got, err := replaceSection(doc, "new\n\n")
	if want := "a\n" + markBegin + "\nnew\n" + markEnd + "\nb\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := replaceSection("no markers", ""); err == nil {
		t.Error("a document without markers is accepted")
	}
}

// TestTable: a figure, a failure, a peer that has stalled, a ceiling that has
// no such figure.
func TestTable(t *testing.T) {
	r := stream("out", loadSend, 1, bigMTU)
	b := &bench{
		rows: []row{r},
		peers: []peer{
			{Label: "epiphyte", Kind: kindOurs}, {Label: "pasta", Kind: kindPasta}, {Label: "slirp4netns", Kind: kindSlirp},
			{Label: "pasta-no", Kind: kindPasta, Missing: "not found"}, {Label: "veth", Kind: kindVeth},
		},
		samples: []sample{
			{Row: r.name, Peer: "epiphyte", Round: 0, Values: values{"gbps": 10, "cpu_s_per_gb": 0.5}},
			{Row: r.name, Peer: "epiphyte", Round: 1, Values: values{"gbps": 12345, "cpu_s_per_gb": 0.7}},
			{Row: r.name, Peer: "pasta", Round: 0, Values: values{"gbps": 0}},
			{Row: r.name, Peer: "slirp4netns", Round: 0, Failed: "it broke"},
			{Row: r.name, Peer: "veth", Round: 0, Values: values{"gbps": 40, "cpu_s_per_gb": 0}},
		},
	}
	var w strings.Builder
	b.table(&w)
	b.failures(&w)
	want := `| | unit | epiphyte | pasta | slirp4netns | veth | epiphyte/pasta | epiphyte/slirp4netns |
|---|---|--:|--:|--:|--:|--:|--:|
| TCP out, 1 stream, MTU 65520 | Gbit/s | 6177.5 (10.0–12345.0) | 0.0 | SKIP | 40.0 | | |
| TCP out, 1 stream, MTU 65520 ↓ | helper CPU s/GB | 0.60 (0.50–0.70) | – | SKIP |  | | |

Without a figure, or with failures:

- tcp-out-1-65520, slirp4netns: it broke (1 sample)
`
	if d := cmp.Diff(want, w.String()); d != "" {
		t.Error(d)
	}
	if s := chart.Number(12345, 0); s != "12 345" {
		t.Error(s)
	}
}

// TestFaceRowsAreMeasuredByOursAndPastaAlone, and ours as pasta there.
func TestFaceRowsAreMeasuredByOursAndPastaAlone(t *testing.T) {
	for _, r := range allRows() {
		for _, kind := range kinds() {
			p := peer{Kind: kind, Path: "/bin/" + kind}
			if r.face && p.takes(r) != (kind == kindOurs || kind == kindPasta) {
				t.Errorf("%s: taken by %s is %v", r.name, kind, p.takes(r))
			}
			if f := p.facing(r); kind == kindOurs && r.face != (f.Kind == kindPasta && f.Name == kindPasta) || f.Path != p.Path {
				t.Errorf("%s: %s is measured as %+v", r.name, kind, f)
			}
		}
	}
}
