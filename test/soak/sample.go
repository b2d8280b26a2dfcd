package main

import (
	"context"
	"fmt"
	"time"

	"epiphyte/test/harness"
)

// process is one that is watched.
type process struct {
	name    string
	pid     int
	idle    harness.Usage   // before the load
	samples []harness.Usage // of the load, one each second
	after   harness.Usage   // once the load is over and all has ended
}

// watched are a site's processes: the helper, and its agent if it has one.
func (s *site) watched() ([]*process, error) {
	list := []*process{{name: s.name, pid: s.helper.PID}}
	pid, err := s.helper.Agent()
	if err != nil {
		return nil, err
	}
	if pid != 0 {
		list = append(list, &process{name: s.name + ", agent", pid: pid})
	}
	for _, p := range list {
		if p.idle, err = p.now(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (p *process) now() (harness.Usage, error) {
	u, err := harness.UsageOf(p.pid)
	if err != nil {
		err = fmt.Errorf("%s: %w", p.name, err)
	}
	return u, err
}

// watch takes a sample of each process every second until ctx ends, and calls each
// with the number of seconds.
func watch(ctx context.Context, list []*process, each func(second int)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for second := 1; ; second++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, p := range list {
			u, err := p.now()
			if err != nil {
				return err
			}
			p.samples = append(p.samples, u)
		}
		each(second)
	}
}

// figure is one of a process's that must stay level.
type figure struct {
	name, unit string
	of         func(harness.Usage) float64
	// growth that is no leak, from the second quarter to the last: a part of the
	// figure and a fixed amount. Memory varies with what readers leave in buffers,
	// and descriptors with how fast the machine ends a connection; a single one
	// that leaks is found when all has ended.
	part, fixed float64
	// kept above the idle figure when all has ended: the heap's least size, the
	// runtime's poller, a thread that it has replaced.
	kept float64
}

func figures() []figure {
	return []figure{
		{"resident memory", "MB", func(u harness.Usage) float64 { return float64(u.RSS) / (1 << 20) }, 0.15, 6, 24},
		{"descriptors", "", func(u harness.Usage) float64 { return float64(u.FDs) }, 0.25, 30, 2},
		{"threads", "", func(u harness.Usage) float64 { return float64(u.Threads) }, 0, 1, 1},
	}
}
