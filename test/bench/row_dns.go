package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"
)

// hostResolver is where the host's resolver listens, as a local one commonly does.
const hostResolver = "127.0.0.53"

// nameResolver names it to helpers. The file is one that the harness has made
// for this mount namespace.
func nameResolver() error {
	err := os.WriteFile("/etc/resolv.conf", []byte("nameserver "+hostResolver+"\n"), 0o644)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("name resolver: %w", err)
	}
	return nil
}

// resolve makes the server the host's resolver. A ceiling asks it itself.
func (s *scene) resolve() {
	s.port = 53
	if !s.peer.ceiling() {
		s.server = netip.MustParseAddr(hostResolver)
		s.target, _ = netip.ParseAddr(s.peer.launch().resolver)
	}
}

// queries asks the resolver by a number of threads, each of which waits for an answer.
func queries(name, kind, title string) row {
	const threads = 8
	title = fmt.Sprintf("DNS queries %s, %d under way", title, threads)
	return row{
		name: name, mtu: bigMTU, dns: true,
		metrics: []metric{
			{key: "per_s", title: title, unit: "per s"},
			{key: "cpu_us_per_op", title: title, unit: "helper CPU µs", lower: true, helpers: true},
		},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			t, err := s.newTraffic(ctx, load{Kind: kind, Threads: threads, ready: 1})
			if err != nil {
				return nil, err
			}
			defer t.close()
			return t.operations(ctx, window)
		},
	}
}

// operations per second and what each costs.
func (t *traffic) operations(ctx context.Context, window time.Duration) (values, error) {
	w, err := t.window(ctx, settle/3, window)
	if err != nil {
		return nil, err
	}
	v := values{"per_s": w.done / w.seconds, "errors": float64(t.errors.Load())}
	if w.done > 0 {
		v["cpu_us_per_op"], v["all_cpu_us_per_op"] = w.cpu*1e6/w.done, w.all*1e6/w.done
	}
	return v, nil
}
