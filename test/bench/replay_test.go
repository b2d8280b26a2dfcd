package main

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"epiphyte/test/chart"
)

// TestRecordedRunsAreOne: the second run's rounds follow the first's, ours is
// the first peer, and a row that there is no more is left out.
func TestRecordedRunsAreOne(t *testing.T) {
	const runs = `{"row":"rtt-tcp","round":0,"peer":"pasta-old","version":"v1","values":{"p50_us":20}}
{"row":"rtt-tcp","round":0,"peer":"epiphyte","values":{"p50_us":10}}
{"row":"gone","round":0,"peer":"epiphyte","values":{"p50_us":10}}
{"row":"rtt-tcp","round":0,"peer":"epiphyte","values":{"p50_us":30}}
{"row":"rtt-tcp","round":0,"peer":"pasta-old","version":"v1","values":{"p50_us":20}}
`
	b, err := recorded(strings.NewReader(runs), options{peers: defaultPeers})
	if err != nil {
		t.Fatal(err)
	}
	if len(b.peers) != 2 || b.peers[0].Kind != kindOurs || b.peers[1].Version != "v1" || len(b.rows) != 1 {
		t.Errorf("peers %+v, %d rows", b.peers, len(b.rows))
	}
	o := b.judge([]goal{{row: "rtt-tcp", key: "p50_us", against: []string{kindPasta}, lower: true}})
	if want := (chart.Summary{Median: 1, Min: 0.5, Max: 1.5, N: 2}); o[0].Summary != want {
		t.Errorf("%+v", o[0].Summary)
	}
	for _, bad := range []string{"", "{", `{"row":"rtt-tcp","peer":"nosuch"}`} {
		if _, err := recorded(strings.NewReader(bad), options{peers: defaultPeers}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestReplayWritesDocumentAndPictures, and leaves the rest of the document.
func TestReplayWritesDocumentAndPictures(t *testing.T) {
	dir := t.TempDir()
	doc, from := filepath.Join(dir, "speed.md"), filepath.Join(dir, "samples")
	for path, text := range map[string]string{
		doc:  "before\n" + markBegin + "\n" + markEnd + "\nafter\n",
		from: `{"row":"dns-one","round":0,"peer":"epiphyte","values":{"per_s":20}}`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := replay(options{peers: defaultPeers, from: from, docPath: doc}, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(doc)
	if err != nil || !strings.HasPrefix(string(text), "before\n") || !strings.HasSuffix(string(text), "after\n") ||
		!strings.Contains(string(text), "![dns](speed/dns.svg)") {
		t.Errorf("%s, %v", text, err)
	}
	svg, err := os.ReadFile(filepath.Join(dir, "speed", "dns.svg"))
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(svg, new(struct{})); err != nil {
		t.Errorf("%v in %s", err, svg)
	}
}
