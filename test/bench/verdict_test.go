package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"epiphyte/test/chart"
)

// measured is a run with the given figures, one for each round.
func measured(t *testing.T, peers []string, figures map[string]map[string][]float64) *bench {
	t.Helper()
	b := &bench{}
	for _, kind := range peers {
		b.peers = append(b.peers, peer{Label: kind, Kind: kind})
	}
	for key, byPeer := range figures {
		name, metric, _ := strings.Cut(key, " ")
		if !slices.ContainsFunc(b.rows, func(r row) bool { return r.name == name }) {
			b.rows = append(b.rows, find(t, name))
		}
		for kind, list := range byPeer {
			for round, v := range list {
				b.samples = append(b.samples, sample{Row: name, Peer: kind, Round: round, Values: values{metric: v}})
			}
		}
	}
	return b
}

func find(t *testing.T, name string) row {
	t.Helper()
	rows := allRows()
	i := slices.IndexFunc(rows, func(r row) bool { return r.name == name })
	if i < 0 {
		t.Fatalf("no row %s", name)
	}
	return rows[i]
}

func verdicts(b *bench, g ...goal) (list []string) {
	for _, o := range b.judge(g) {
		list = append(list, o.verdict())
	}
	return list
}

// TestGoalIsHeldAgainstTheBestOfEachRound, which may be another peer each time,
// and which one that stands still is not.
func TestGoalIsHeldAgainstTheBestOfEachRound(t *testing.T) {
	b := measured(t, []string{kindOurs, kindSlirp, kindPasta}, map[string]map[string][]float64{
		"tcp-out-4-65520 gbps": {kindOurs: {10, 10, 10}, kindSlirp: {10, 2, 2}, kindPasta: {1, 5, 5}},
		"rtt-tcp p50_us":       {kindOurs: {10, 10, 10}, kindSlirp: {20, 40, 0}, kindPasta: {40, 20, 20}},
	})
	helpers := []string{kindSlirp, kindPasta}
	out := goal{row: "tcp-out-4-65520", key: "gbps", against: helpers, floor: 2, aim: 3}
	rtt := goal{row: "rtt-tcp", key: "p50_us", against: helpers, floor: 0.6, aim: 0.5, lower: true}
	o := b.judge([]goal{out, rtt})
	if d := cmp.Diff([]chart.Summary{{Median: 2, Min: 1, Max: 2, N: 3}, {Median: 0.5, Min: 0.5, Max: 0.5, N: 3}},
		[]chart.Summary{o[0].Summary, o[1].Summary}); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"met", "aim met"}, verdicts(b, out, rtt)); d != "" {
		t.Error(d)
	}
	out.floor, rtt.floor, rtt.aim = 2.1, 0.4, 0
	if d := cmp.Diff([]string{"**not met**", "**not met**"}, verdicts(b, out, rtt)); d != "" {
		t.Error(d)
	}
}

// TestGoalWithoutPeerOrOfAnotherRow: a bound on our own figure, a figure set
// against that of another row, one that nobody has measured, one of a row that
// is not in the run.
func TestGoalWithoutPeerOrOfAnotherRow(t *testing.T) {
	b := measured(t, []string{kindOurs, kindPasta}, map[string]map[string][]float64{
		"hold-5000 growth_mb":                {kindOurs: {30, 40}, kindPasta: {1, 1}},
		"published-tcp-up-1-65520 gbps":      {kindOurs: {1}, kindPasta: {10}},
		"published-host-tcp-up-1-65520 gbps": {kindOurs: {12}, kindPasta: {1}},
	})
	pasta := []string{kindPasta}
	got := verdicts(b,
		goal{row: "hold-5000", key: "growth_mb", floor: 40, aim: 30, lower: true},
		goal{row: "published-host-tcp-up-1-65520", theirRow: "published-tcp-up-1-65520", key: "gbps", against: pasta, floor: 1, aim: 1.3},
		goal{row: "hold-5000", key: "open_s", against: pasta, floor: 1, lower: true},
		goal{row: "idle", key: "rss_mb", against: pasta, floor: 1, lower: true})
	if d := cmp.Diff([]string{"met", "met", "not measured"}, got); d != "" {
		t.Error(d)
	}
}

// TestQuickFormFails for a row below its floor and for one in which ours has
// failed, but not for a peer that has.
func TestQuickFormFails(t *testing.T) {
	b := measured(t, []string{kindOurs, kindSlirp, kindPasta}, map[string]map[string][]float64{
		"tcp-out-1-65520 gbps":  {kindOurs: {1}, kindSlirp: {10}},
		"rtt-tcp-pinned p50_us": {kindSlirp: {1}},
		"idle rss_mb":           {kindOurs: {1000}},
	})
	// What has no figure at all would hide what is tested here.
	b.samples = append(b.samples,
		sample{Row: "tcp-out-1-65520", Peer: kindOurs, Round: 1, Values: values{"cpu_s_per_gb": 0.1}})
	got := strings.Split(names(b.below()), ", ")
	slices.Sort(got)
	if d := cmp.Diff([]string{"rtt-tcp-pinned", "tcp-out-1-65520"}, got); d != "" {
		t.Error(d)
	}
}

// TestGoalsFloorsAndPlotsNameWhatThereIs: a row or a metric that is renamed
// would drop out of them in silence.
func TestGoalsFloorsAndPlotsNameWhatThereIs(t *testing.T) {
	has := func(name, key string) {
		t.Helper()
		if !slices.ContainsFunc(find(t, name).metrics, func(m metric) bool { return m.key == key }) {
			t.Errorf("%s has no %s", name, key)
		}
	}
	for _, g := range append(goals(), floors()...) {
		has(g.row, g.key)
		if g.theirRow != "" {
			has(g.theirRow, g.key)
		}
		if lower := find(t, g.row).metrics; g.aim != 0 && (g.aim < g.floor) != g.lower {
			t.Errorf("%s: aim %v, floor %v, lower is %v: %v", g.row, g.aim, g.floor, g.lower, lower)
		}
	}
	for _, g := range floors() {
		if g.why == "" {
			t.Errorf("the floor of %s, %s has no reason", g.row, g.key)
		}
	}
	for _, g := range growths() {
		for _, p := range g.points {
			has(p.row, g.key)
		}
	}
	b := &bench{peers: []peer{{Kind: kindOurs}}, rows: allRows()}
	for _, p := range plots() {
		if c, _ := b.chart(p); len(c.Labels) == 0 {
			t.Errorf("no row is in plot %s", p.name)
		}
	}
}
