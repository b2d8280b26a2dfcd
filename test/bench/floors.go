package main

// floors are what the quick form fails below. They are no goals: each stands a
// quarter to a half away from the worst median of six quick runs on two shared
// processors (the medians given with each), and away from that of one run beside
// a process that took one processor whole. Named is the kind of change that
// reaches it. Rows and metrics are those that were steady: what pasta sends out
// by one stream is not, since it stalls.
func floors() []goal {
	slirp, pasta, bridge := []string{kindSlirp}, []string{kindPasta}, []string{kindBridge}
	above := func(title, row, key string, peer []string, floor float64, why string) goal {
		return goal{title: title, row: row, key: key, against: peer, floor: floor, why: why}
	}
	below := func(title, row, key string, peer []string, floor float64, why string) goal {
		g := above(title, row, key, peer, floor, why)
		g.lower = true
		return g
	}
	return []goal{
		above("TCP out", "tcp-out-1-65520", "gbps", slirp, 1.1,
			"medians 1.51-3.58, wide since slirp4netns loses packets of its guest now and then; data handed between threads"),
		below("TCP out, CPU s per GB", "tcp-out-1-65520", "cpu_s_per_gb", slirp, 0.9,
			"medians 0.58-0.67; a copy or a hand-off more for each byte"),
		above("TCP in", "tcp-in-1-65520", "gbps", slirp, 1.5,
			"medians 2.21-3.12; segments handed between threads, small writes to the TAP"),
		below("TCP in, CPU s per GB", "tcp-in-1-65520", "cpu_s_per_gb", slirp, 0.9,
			"medians 0.58-0.72; a copy or a hand-off more for each byte"),
		below("TCP in, CPU s per GB", "tcp-in-1-65520", "cpu_s_per_gb", pasta, 1.6,
			"medians 1.06-1.32; the same, where slirp4netns got slower too"),
		above("TCP out, MTU 1500", "tcp-out-1-1500", "gbps", slirp, 6,
			"medians 12.7-16.0; without offloads of the TAP it is about 1"),
		below("TCP out, MTU 1500, CPU s per GB", "tcp-out-1-1500", "cpu_s_per_gb", slirp, 0.15,
			"medians 0.06-0.08; without offloads of the TAP it is about 1"),
		below("TCP round trip, p50", "rtt-tcp-pinned", "p50_us", slirp, 2.2,
			"medians 1.59, on a taken processor the same; another thread woken on the way"),
		below("TCP round trip, CPU", "rtt-tcp-pinned", "cpu_us_per_op", slirp, 2.4,
			"medians 1.74, on a taken processor 1.72; system calls added to a small packet"),
		above("connections per second", "connect-16", "per_s", slirp, 0.5,
			"medians 0.71-0.83; a handshake by a goroutine of its own"),
		below("connections, CPU", "connect-16", "cpu_us_per_op", slirp, 2,
			"medians 1.20-1.50; a handshake by a goroutine of its own"),
		above("DNS, fresh sockets", "dns-fresh", "per_s", slirp, 3,
			"medians 6.85-9.42; a host socket for each query is what slirp4netns does"),
		above("DNS, fresh sockets", "dns-fresh", "per_s", pasta, 0.5,
			"medians 0.88-1.06, beside pasta of 2023 0.69; a goroutine or a socket for each query"),
		above("published by loopback", "published-tcp-up-1-65520", "gbps", pasta, 0.6,
			"medians 0.92-1.09; by the stack path it is about 0.4"),
		above("published connections", "published-connect-16", "per_s", pasta, 0.55,
			"medians 1.01-1.25, on a taken processor 0.78; connections that wait for a socket of the guest"),
		above("TCP between members", "neighbour-tcp-1-65520", "gbps", bridge, 0.3,
			"medians 0.75-0.94; connections that move much stay on the bridge, where they had 0.35-0.47 beside other work"),
		below("exec to ready", "start", "ms", pasta, 1,
			"medians 0.61-0.65; imports with work at start, one more execution"),
		below("idle RSS", "idle", "rss_mb", pasta, 0.8,
			"medians 0.58, no spread; buffers allocated before there is traffic, pasta of 2023 is a third larger"),
	}
}
