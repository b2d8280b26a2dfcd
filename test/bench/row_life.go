package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// starts is how many start-ups are measured, whatever the number of rounds.
const starts = 20

// startUp is the time from exec to ready, said by the helper in its own way.
func startUp() row {
	return row{
		name: "start", mtu: bigMTU, helpers: true, samples: starts, starts: true,
		metrics: []metric{{key: "ms", title: "exec to ready", unit: "ms", lower: true, digits: 1}},
		run: func(ctx context.Context, s *scene, _ time.Duration) (_ values, err error) {
			if s.helper, err = s.peer.launch().startUp(ctx, s); err != nil {
				return nil, err
			}
			return values{"ms": float64(s.helper.ready.Microseconds()) / 1e3}, nil
		},
	}
}

// firstByte is the time from exec until the guest has got a byte from the host.
// Its client has been trying all the time, so it is a row of its own.
func firstByte() row {
	return row{
		name: "start-byte", mtu: bigMTU, helpers: true, samples: starts, starts: true,
		metrics: []metric{{key: "ms", title: "exec to first byte", unit: "ms", lower: true, digits: 1}},
		run: func(ctx context.Context, s *scene, _ time.Duration) (_ values, err error) {
			t, err := s.newTraffic(ctx, load{Kind: loadFirst, Threads: 1})
			if err != nil {
				return nil, err
			}
			defer t.close()
			begin := monotonic()
			if s.helper, err = s.peer.launch().startUp(ctx, s); err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, defaultPatience)
			defer cancel()
			if err := t.wait(ctx, func() bool { return t.ready.Load() > 0 }); err != nil {
				return nil, err
			}
			return values{"ms": float64(t.first.Load()-begin) / 1e6}, nil
		},
	}
}

// busy is the memory of a helper that carries four streams.
func busy(way, kind string) row {
	const streams = 4
	return row{
		name: fmt.Sprintf("rss-%s-%d", way, streams), mtu: bigMTU, helpers: true,
		metrics: []metric{{key: "rss_mb", title: fmt.Sprintf("under %d streams %s, resident", streams, way), unit: "MB", lower: true, digits: 1}},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			t, err := s.newTraffic(ctx, load{Kind: kind, Threads: streams, Size: chunk, ready: streams})
			if err != nil {
				return nil, err
			}
			defer t.close()
			if err := pause(ctx, settle+window); err != nil {
				return nil, err
			}
			rss, pss, err := s.helper.memory()
			return values{"rss_mb": float64(rss) / 1e6, "pss_mb": float64(pss) / 1e6}, err
		},
	}
}

// atRest is when a helper is idle and no longer starting. Ours gives back what only a start
// needs a second after it is ready.
const atRest = 1500 * time.Millisecond

// idle is the memory of a helper that has carried nothing, and the processor
// time that it takes then.
func idle() row {
	return row{
		name: "idle", mtu: bigMTU, helpers: true,
		metrics: []metric{
			{key: "rss_mb", title: "idle, resident", unit: "MB", lower: true, digits: 1},
			{key: "cpu_ms_per_s", title: "idle", unit: "helper CPU ms/s", lower: true, digits: 2, alone: true},
		},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			if err := pause(ctx, atRest); err != nil {
				return nil, err
			}
			begin := time.Now()
			before, err := s.helper.cpu()
			if err != nil {
				return nil, err
			}
			if err := pause(ctx, window); err != nil {
				return nil, err
			}
			after, err := s.helper.cpu()
			if err != nil {
				return nil, err
			}
			took := time.Since(begin)
			rss, pss, err := s.helper.memory()
			if err != nil {
				return nil, err
			}
			return values{
				"rss_mb": float64(rss) / 1e6, "pss_mb": float64(pss) / 1e6,
				"cpu_ms_per_s": float64((after - before).Microseconds()) / 1e3 / took.Seconds(),
			}, nil
		},
	}
}

// hold opens connections that stay open and carry nothing after a first byte.
func hold(n int) row {
	title := fmt.Sprintf("%d idle connections", n)
	return row{
		name: fmt.Sprintf("hold-%d", n), mtu: bigMTU, helpers: true, extra: n > 5000,
		metrics: []metric{
			{key: "growth_mb", title: title + ", growth of resident memory", unit: "MB", lower: true, digits: 1},
			{key: "open_s", title: title + ", time to open", unit: "s", lower: true, digits: 2},
			{key: "cpu_us_per_op", title: title + ", each opened", unit: "helper CPU µs", lower: true, helpers: true},
		},
		run: func(ctx context.Context, s *scene, _ time.Duration) (values, error) {
			if err := pause(ctx, settle); err != nil {
				return nil, err
			}
			before, _, err := s.helper.memory()
			if err != nil {
				return nil, err
			}
			cpu, err := s.helper.cpu()
			if err != nil {
				return nil, err
			}
			begin := time.Now()
			t, err := s.newTraffic(ctx, load{Kind: loadHold, Threads: n, ready: n, patience: time.Duration(n) * 10 * time.Millisecond})
			if err != nil {
				return nil, errors.Join(err, s.helper.alive())
			}
			took := time.Since(begin)
			defer t.close()
			spent, err := s.helper.cpu()
			if err != nil {
				return nil, err
			}
			if err := pause(ctx, settle); err != nil {
				return nil, err
			}
			after, _, err := s.helper.memory()
			if err != nil {
				return nil, err
			}
			return values{
				"growth_mb": float64(after-before) / 1e6, "open_s": took.Seconds(),
				"cpu_us_per_op": (spent - cpu).Seconds() * 1e6 / float64(n),
			}, nil
		},
	}
}
