package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"epiphyte/test/harness"
)

// countedAs are the last cells of the manual's table of limits, by what is limited.
func countedAs(t *testing.T) map[string]string {
	t.Helper()
	_, text, ok := strings.Cut(string(must(os.ReadFile("../docs/manual.md"))(t)), "| what | bound | reason | counted as |\n|---|---|---|---|\n")
	table, _, end := strings.Cut(text, "\n\n")
	if !ok || !end {
		t.Fatal("the manual has no table of limits")
	}
	cells := map[string]string{}
	for row := range strings.SplitSeq(table, "\n") {
		columns := strings.Split(strings.Trim(row, "| "), " | ")
		if len(columns) != 4 {
			t.Errorf("%d columns: %s", len(columns), row)
			continue
		}
		cells[columns[0]] = columns[3]
	}
	return cells
}

// TestLimitsAreCounted: each limit of the manual at which something can be lost has a
// counter, and no other limit has one.
func TestLimitsAreCounted(t *testing.T) {
	t.Parallel()
	ours(t, "--http-socket")
	socket := filepath.Join(t.TempDir(), "http")
	serveWith(t, harness.HelperConfig{}, "--http-socket="+socket, "--queues=2")
	h := startClient(t, "stats", "--json", "--http-socket", socket)
	if code, _, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Fatalf("stats: %d, %v: %s", code, err, h.Stderr)
	}
	var counters map[string]json.RawMessage
	var limits map[string]uint64
	if err := json.Unmarshal([]byte(h.Stdout.String()), &counters); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(counters["limits_met"], &limits); err != nil {
		t.Fatal(err)
	}
	uncounted := []string{"timer", "waits", "size", "ends", "unseen"}
	told := map[string]bool{}
	for what, cell := range countedAs(t) {
		names := regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cell, -1)
		if len(names) == 0 && !slices.Contains(uncounted, cell) {
			t.Errorf("%s: counted as %q", what, cell)
		}
		for _, name := range names {
			_, met := limits[name[1]]
			_, counted := counters[name[1]]
			if !met && !counted {
				t.Errorf("%s: there is no counter %s", what, name[1])
			}
			told[name[1]] = true
		}
	}
	for name := range limits {
		if !told[name] {
			t.Errorf("the manual has no limit that is counted as %s", name)
		}
	}
}
