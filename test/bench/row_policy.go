package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"epiphyte/internal/api"
)

// police puts the guest under a policy; what was denied is asked for by a socket.
func (s *scene) police(text string) (err error) {
	if s.policed, err = os.MkdirTemp("", "policy-"); err != nil {
		return err
	}
	file := s.policyFile("policy")
	s.peer.Args = append(append([]string(nil), s.peer.Args...), "--policy="+file, "--policy-log="+s.policyFile("log"), "--http-socket="+s.policyFile("http"))
	return os.WriteFile(file, []byte(text), 0o600)
}

func (s *scene) policyFile(name string) string { return filepath.Join(s.policed, name) }

// denied is how many flows the policy has denied. The socket answers clients of the
// helper's namespace alone.
func (s *scene) denied(ctx context.Context) (n uint64, err error) {
	err = s.host.Do(func() error {
		doc, err := (&api.Client{HTTP: s.policyFile("http")}).MemberPolicy(ctx, "")
		n = doc.Denied
		return err
	})
	return n, err
}

// denials is a guest whose root has as many flows denied as it can send, each of them
// another.
func denials() row {
	const title = "denied flows, sent without pause"
	return row{
		name: "policy-denied", mtu: bigMTU, helpers: true, policy: "allow 192.0.2.99\n",
		metrics: []metric{
			{key: "per_s", title: title, unit: "per s"},
			{key: "cpu_us_per_op", title: title, unit: "helper CPU µs", lower: true, digits: 2},
			{key: "growth_mb", title: title + ", growth of resident memory", unit: "MB", lower: true, digits: 1},
			{key: "log_mb", title: title + ", size of the record", unit: "MB", lower: true, digits: 2},
		},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			if err := pause(ctx, settle); err != nil {
				return nil, err
			}
			before, _, err := s.helper.memory()
			if err != nil {
				return nil, err
			}
			t, err := s.newTraffic(ctx, load{Kind: loadDenied, Threads: 1, ready: 1})
			if err != nil {
				return nil, err
			}
			defer t.close()
			return s.countDenials(ctx, t, before, window)
		},
	}
}

func (s *scene) countDenials(ctx context.Context, t *traffic, before int64, window time.Duration) (values, error) {
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	first, err := s.denied(ctx)
	if err != nil {
		return nil, err
	}
	w, err := t.window(ctx, 0, window)
	if err != nil {
		return nil, err
	}
	last, err := s.denied(ctx)
	if err != nil {
		return nil, err
	}
	after, _, err := s.helper.memory()
	if err != nil {
		return nil, err
	}
	log, err := os.Stat(s.policyFile("log"))
	if err != nil {
		return nil, err
	}
	n := float64(last - first)
	if n == 0 {
		return nil, errors.New("nothing was denied")
	}
	return values{
		"per_s": n / w.seconds, "cpu_us_per_op": w.cpu * 1e6 / n, "sent_per_s": w.sent / w.seconds,
		"growth_mb": float64(after-before) / 1e6, "log_mb": float64(log.Size()) / 1e6,
	}, nil
}
