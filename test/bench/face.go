package main

import (
	"path"
	"slices"
)

// asPasta are the rows that are measured once more with our program in pasta's place:
// called by its name, with its options, and with the host's own address in the guest.
var asPasta = []string{
	"tcp-out-[14]-65520", "tcp-in-[14]-65520", "rtt-tcp", "rtt-udp", "connect-1", "connect-16", "udp-1400", "dns-fresh",
	"published-tcp-*", "published-connect-*", "published-host-tcp-*", "published-host-connect-*",
	"start", "idle",
}

// faceRows are those of rows.
func faceRows(rows []row) []row {
	var list []row
	for _, r := range rows {
		if !slices.ContainsFunc(asPasta, func(p string) bool { ok, _ := path.Match(p, r.name); return ok }) {
			continue
		}
		r.name, r.face = "pasta-"+r.name, true
		r.metrics = slices.Clone(r.metrics)
		for i := range r.metrics {
			r.metrics[i].title = "As pasta: " + r.metrics[i].title
		}
		list = append(list, r)
	}
	return list
}

// facing is the peer as a row has it: ours may be called by another name.
func (p peer) facing(r row) peer {
	if r.face && p.Kind == kindOurs {
		p.Kind, p.Name = kindPasta, kindPasta
	}
	return p
}
