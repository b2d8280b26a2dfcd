package main

// floors are what the quick form fails below. They are no goals: each stands a
// quarter to a half away from the worst median of six quick runs on two shared
// processors (the medians given with each), and away from that of one run beside
// a process that took one processor whole. Named is the kind of change that
// reaches it. Rows and metrics are those that were steady: what pasta sends out
// by one stream is not, since it stalls.
func floors() []goal {
	slirp, pasta := []string{kindSlirp}, []string{kindPasta}
	return []goal{{
		title: "TCP out", row: "tcp-out-1-65520", key: "gbps", against: slirp, floor: 1.1,
		why: "medians 1.51-3.58, wide since slirp4netns loses packets of its guest now and then; data handed between threads",
	}, {
		title: "TCP out, CPU s per GB", row: "tcp-out-1-65520", key: "cpu_s_per_gb", against: slirp, floor: 0.9, lower: true,
		why: "medians 0.58-0.67; a copy or a hand-off more for each byte",
	}, {
		title: "TCP in", row: "tcp-in-1-65520", key: "gbps", against: slirp, floor: 1.5,
		why: "medians 2.21-3.12; segments handed between threads, small writes to the TAP",
	}, {
		title: "TCP in, CPU s per GB", row: "tcp-in-1-65520", key: "cpu_s_per_gb", against: slirp, floor: 0.9, lower: true,
		why: "medians 0.58-0.72; a copy or a hand-off more for each byte",
	}, {
		title: "TCP in, CPU s per GB", row: "tcp-in-1-65520", key: "cpu_s_per_gb", against: pasta, floor: 1.6, lower: true,
		why: "medians 1.06-1.32; the same, where slirp4netns got slower too",
	}, {
		title: "TCP out, MTU 1500", row: "tcp-out-1-1500", key: "gbps", against: slirp, floor: 6,
		why: "medians 12.7-16.0; without offloads of the TAP it is about 1",
	}, {
		title: "TCP out, MTU 1500, CPU s per GB", row: "tcp-out-1-1500", key: "cpu_s_per_gb", against: slirp, floor: 0.15, lower: true,
		why: "medians 0.06-0.08; without offloads of the TAP it is about 1",
	}, {
		title: "TCP round trip, p50", row: "rtt-tcp-pinned", key: "p50_us", against: slirp, floor: 2.2, lower: true,
		why: "medians 1.59, on a taken processor the same; another thread woken on the way",
	}, {
		title: "TCP round trip, CPU", row: "rtt-tcp-pinned", key: "cpu_us_per_op", against: slirp, floor: 2.4, lower: true,
		why: "medians 1.74, on a taken processor 1.72; system calls added to a small packet",
	}, {
		title: "connections per second", row: "connect-16", key: "per_s", against: slirp, floor: 0.5,
		why: "medians 0.71-0.83; a handshake by a goroutine of its own",
	}, {
		title: "connections, CPU", row: "connect-16", key: "cpu_us_per_op", against: slirp, floor: 2, lower: true,
		why: "medians 1.20-1.50; a handshake by a goroutine of its own",
	}, {
		title: "DNS, fresh sockets", row: "dns-fresh", key: "per_s", against: slirp, floor: 3,
		why: "medians 6.85-9.42; a host socket for each query is what slirp4netns does",
	}, {
		title: "DNS, fresh sockets", row: "dns-fresh", key: "per_s", against: pasta, floor: 0.5,
		why: "medians 0.88-1.06, beside pasta of 2023 0.69; a goroutine or a socket for each query",
	}, {
		title: "published by loopback", row: "published-tcp-up-1-65520", key: "gbps", against: pasta, floor: 0.6,
		why: "medians 0.92-1.09; by the stack path it is about 0.4",
	}, {
		title: "published connections", row: "published-connect-16", key: "per_s", against: pasta, floor: 0.55,
		why: "medians 1.01-1.25, on a taken processor 0.78; connections that wait for a socket of the guest",
	}, {
		title: "exec to ready", row: "start", key: "ms", against: pasta, floor: 1, lower: true,
		why: "medians 0.61-0.65; imports with work at start, one more execution",
	}, {
		title: "idle RSS", row: "idle", key: "rss_mb", against: pasta, floor: 0.8, lower: true,
		why: "medians 0.58, no spread; buffers allocated before there is traffic, pasta of 2023 is a third larger",
	}}
}
