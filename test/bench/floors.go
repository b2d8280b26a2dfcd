package main

// floors are what the quick form fails below. They are no goals: they are set
// where a change for the worse would show and where a busy machine does not
// reach, by the lowest median of several runs (see why).
func floors() []goal {
	slirp, pasta := []string{kindSlirp}, []string{kindPasta}
	return []goal{
		{title: "TCP out", row: "tcp-out-1-65520", key: "gbps", against: slirp, floor: 1.2},
		{title: "TCP out, CPU s per GB", row: "tcp-out-1-65520", key: "cpu_s_per_gb", against: slirp, floor: 0.75, lower: true},
		{title: "TCP in", row: "tcp-in-1-65520", key: "gbps", against: slirp, floor: 1.2},
		{title: "TCP in, CPU s per GB", row: "tcp-in-1-65520", key: "cpu_s_per_gb", against: slirp, floor: 0.85, lower: true},
		{title: "TCP in, CPU s per GB, pasta", row: "tcp-in-1-65520", key: "cpu_s_per_gb", against: pasta, floor: 1.6, lower: true},
		{title: "TCP out, MTU 1500", row: "tcp-out-1-1500", key: "gbps", against: slirp, floor: 5},
		{title: "TCP out, MTU 1500, CPU s per GB", row: "tcp-out-1-1500", key: "cpu_s_per_gb", against: slirp, floor: 0.2, lower: true},
		{title: "TCP round trip, p50", row: "rtt-tcp", key: "p50_us", against: slirp, floor: 2.5, lower: true},
		{title: "TCP round trip, CPU", row: "rtt-tcp", key: "cpu_us_per_op", against: slirp, floor: 2.5, lower: true},
		{title: "connections per second", row: "connect-16", key: "per_s", against: slirp, floor: 0.5},
		{title: "connections, CPU", row: "connect-16", key: "cpu_us_per_op", against: slirp, floor: 2, lower: true},
		{title: "DNS, fresh sockets", row: "dns-fresh", key: "per_s", against: slirp, floor: 2},
		{title: "DNS, fresh sockets, pasta", row: "dns-fresh", key: "per_s", against: pasta, floor: 0.4},
		{title: "published by loopback", row: "published-tcp-up-1-65520", key: "gbps", against: pasta, floor: 0.5},
		{title: "published by loopback, CPU", row: "published-tcp-up-1-65520", key: "cpu_s_per_gb", against: pasta, floor: 2, lower: true},
		{title: "published connections", row: "published-connect-16", key: "per_s", against: pasta, floor: 0.5},
		{title: "exec to ready", row: "start", key: "ms", against: pasta, floor: 1, lower: true},
		{title: "idle RSS", row: "idle", key: "rss_mb", against: pasta, floor: 0.9, lower: true},
	}
}
