package main

import (
	"strings"
	"testing"
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
	if want := (summary{median: 1, min: 0.5, max: 1.5, n: 2}); o[0].summary != want {
		t.Errorf("%+v", o[0].summary)
	}
	for _, bad := range []string{"", "{", `{"row":"rtt-tcp","peer":"nosuch"}`} {
		if _, err := recorded(strings.NewReader(bad), options{peers: defaultPeers}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
