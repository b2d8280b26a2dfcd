package main

// goal is a ratio that is to be reached: our figure to that of a peer, of the
// same round, or else our figure itself.
type goal struct {
	title    string
	row, key string
	against  []string // kinds of peers: the best of them in each round; none: no ratio
	theirRow string   // theirs is of another row; empty: the same
	floor    float64
	aim      float64
	lower    bool   // lower is better
	why      string // for a recorded floor: the reason of its height
}

// peerNames of a goal, for a reader.
func (g goal) peerNames() string {
	switch len(g.against) {
	case 0:
		return "(none)"
	case 1:
		return g.against[0]
	}
	s := "best of " + g.against[0]
	for _, k := range g.against[1:] {
		s += ", " + k
	}
	return s
}

// goals are what a run is judged by.
func goals() []goal {
	slirp, pasta, kit := []string{kindSlirp}, []string{kindPasta}, []string{kindKit}
	helpers := []string{kindSlirp, kindPasta}
	all := []string{kindSlirp, kindPasta, kindKit}
	var g []goal
	higher := func(title, key string, against []string, floor, aim float64, rows ...string) {
		for _, r := range rows {
			g = append(g, goal{title: title, row: r, key: key, against: against, floor: floor, aim: aim})
		}
	}
	lower := func(title, key string, against []string, floor, aim float64, rows ...string) {
		for _, r := range rows {
			g = append(g, goal{title: title, row: r, key: key, against: against, floor: floor, aim: aim, lower: true})
		}
	}
	higher("TCP out, 1 stream", "gbps", slirp, 2, 3.5, "tcp-out-1-65520")
	higher("TCP out, 4 streams", "gbps", helpers, 1.2, 1.8, "tcp-out-4-65520")
	higher("TCP in", "gbps", pasta, 0.9, 1.15, "tcp-in-1-65520", "tcp-in-4-65520")
	higher("TCP at MTU 1500", "gbps", helpers, 3, 7, "tcp-out-1-1500", "tcp-in-1-1500", "tcp-out-4-1500", "tcp-in-4-1500")
	lower("CPU s per GB", "cpu_s_per_gb", pasta, 1.1, 0.8, "tcp-out-1-65520", "tcp-in-1-65520", "tcp-out-4-65520", "tcp-in-4-65520")
	lower("round trip, p50", "p50_us", helpers, 1.05, 0.8, "rtt-tcp", "rtt-udp")
	higher("connections per second", "per_s", helpers, 1, 1.5, "connect-1", "connect-16")
	higher("UDP packets per second", "kpps", helpers, 1, 1.5, "udp-1400", "udp-64")
	higher("DNS, fresh sockets", "per_s", pasta, 1, 2, "dns-fresh")
	higher("TCP between members", "gbps", []string{kindBridge}, 0.4, 0.6, "neighbour-tcp-1-65520", "neighbour-tcp-4-65520")
	higher("published, by loopback", "gbps", []string{kindPasta, kindKit}, 0.95, 1.15, "published-tcp-up-1-65520", "published-tcp-down-1-65520")
	higher("published, by a host address", "gbps", kit, 0.9, 1.15, "published-host-tcp-up-1-65520", "published-host-tcp-down-1-65520")
	for _, way := range []string{"up", "down"} {
		g = append(g, goal{
			title: "published by a host address, to pasta's loopback", key: "gbps", against: pasta, floor: 0.9, aim: 1.15,
			row: "published-host-tcp-" + way + "-1-65520", theirRow: "published-tcp-" + way + "-1-65520",
		})
	}
	higher("published, our stack path", "gbps", slirp, 2, 3.5, "published-stack-tcp-up-1-65520", "published-stack-tcp-down-1-65520")
	higher("published connections per second", "per_s", all, 1, 1.5, "published-connect-16", "published-host-connect-16")
	higher("as pasta: TCP", "gbps", pasta, 1, 1.2, "pasta-tcp-out-1-65520", "pasta-tcp-in-1-65520", "pasta-tcp-out-4-65520", "pasta-tcp-in-4-65520")
	lower("as pasta: round trip, p50", "p50_us", pasta, 1, 0.8, "pasta-rtt-tcp", "pasta-rtt-udp")
	higher("as pasta: connections per second", "per_s", pasta, 1, 1.4, "pasta-connect-1")
	higher("as pasta: published", "gbps", pasta, 1, 1.15, "pasta-published-tcp-up-1-65520", "pasta-published-tcp-down-1-65520",
		"pasta-published-host-tcp-up-1-65520", "pasta-published-host-tcp-down-1-65520")
	higher("as pasta: published connections per second", "per_s", pasta, 1, 1.5, "pasta-published-connect-1", "pasta-published-connect-16",
		"pasta-published-host-connect-1", "pasta-published-host-connect-16")
	lower("as pasta: exec to return", "ms", pasta, 1, 0.7, "pasta-start")
	lower("as pasta: idle RSS", "rss_mb", pasta, 0.7, 0.4, "pasta-idle")
	lower("exec to ready", "ms", slirp, 3, 1.5, "start")
	lower("idle RSS", "rss_mb", pasta, 0.9, 0.6, "idle")
	lower("5000 connections, time to open", "open_s", pasta, 2, 1, "hold-5000")
	lower("5000 connections, growth of RSS in MB", "growth_mb", nil, 60, 25, "hold-5000")
	for _, r := range programRows() {
		switch m := r.metrics[0]; {
		case r.extra: // a variant
		case m.lower:
			lower("real programs", m.key, all, 1, 0.8, r.name)
		default:
			higher("real programs", m.key, all, 1, 1.2, r.name)
		}
	}
	return g
}
