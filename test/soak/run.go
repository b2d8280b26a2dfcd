package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"epiphyte/internal/api"
	"epiphyte/test/harness"
)

// ended is how long after the load everything may take to end: what waits for a peer
// that vanished does so for a minute.
const ended = 90 * time.Second

// released is when the memory of closed connections has been given back.
const released = 10 * time.Second

// result is what a run hands on to whoever reports it.
type result struct {
	options
	*tally
	processes []*process
}

// soak is one run, which ends early when ctx does or too much is wrong.
func soak(ctx context.Context, e *harness.Env, o options, log io.Writer) (*result, error) {
	w, err := newWorld(ctx, e)
	if err != nil {
		return nil, err
	}
	defer w.close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	load, enough := context.WithTimeout(ctx, o.length)
	defer enough()
	r := &result{options: o, tally: &tally{log: log, begin: time.Now(), enough: enough, counts: map[string]*count{}}}
	for _, s := range w.sites {
		r.processes = append(r.processes, s.processes...)
	}
	jobs, err := w.jobs()
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	for number, j := range jobs {
		wg.Go(func() { r.repeat(load, j, o.seed, number) })
	}
	err = watch(load, r.processes, func(second int) {
		if second%10 == 0 {
			r.progress()
		}
	})
	enough() // a process has gone
	wg.Wait()
	if err != nil {
		return nil, errors.Join(err, w.said())
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, p := range r.processes {
		for _, text := range p.level() {
			r.fault(text)
		}
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(released):
	}
	for _, text := range w.settle() {
		r.fault(text)
	}
	if len(r.wrong()) > 0 {
		return r, w.said()
	}
	return r, nil
}

// settle waits until everything has ended, and says what has not.
func (w *world) settle() (faults []string) {
	err := harness.Eventually(ended, func() error {
		faults = nil
		for _, s := range w.sites {
			left, err := s.left()
			if err != nil {
				return err
			}
			faults = append(faults, left...)
		}
		if len(faults) > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil && len(faults) == 0 {
		faults = append(faults, err.Error())
	}
	return faults
}

// left says what a site holds that it did not before the load.
func (s *site) left() (faults []string, err error) {
	f, err := s.flows()
	if err != nil {
		return nil, err
	}
	if f.TCP > 0 || f.Connecting > 0 || f.Mapping > mappings || f.Session > sessions {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		list, err := s.api.Flows(ctx)
		if err != nil {
			return nil, err
		}
		faults = append(faults, fmt.Sprintf("%s: flows are left: %+v, and %d mappings and %d sessions may be: %+v", s.name, f, mappings, sessions, list))
	}
	for _, p := range s.processes {
		if p.after, err = p.now(); err != nil {
			return nil, err
		}
		faults = append(faults, p.back(f.Mapping)...)
	}
	return faults, nil
}

// What the clients' ports and the pings of a site keep for some time.
const (
	mappings = 4*clientPorts + 4
	sessions = 2 * clientPorts
)

// flows counts what is under way, by kind.
type flows struct{ Connecting, TCP, Mapping, Session int }

func (s *site) flows() (f flows, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, err := s.api.Document(ctx, api.StatsDocument)
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(text, &struct{ Flows *flows }{&f})
}

// said is what the helpers have logged, which explains at times what went wrong.
func (w *world) said() error {
	var all []error
	for _, s := range w.sites {
		all = append(all, fmt.Errorf("%s said: %s", s.name, s.helper.Stderr))
	}
	return errors.Join(all...)
}
