package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// job is one thing that is done again and again.
type job struct {
	name  string        // of its line in the table
	place string        // the site's name
	pause time.Duration // at most, between two
	do    func(context.Context, *rand.Rand, *count) error
}

// count of what all jobs of a name have done.
type count struct{ done, bytes, lost atomic.Uint64 }

// maxFaults end a run: more tell nothing new.
const maxFaults = 20

// tally is what a run has done and what was wrong.
type tally struct {
	log    io.Writer
	begin  time.Time
	enough func() // ends the load

	mu     sync.Mutex
	names  []string          // guarded by mu; in the order of their first use
	counts map[string]*count // guarded by mu
	faults []string          // guarded by mu
}

// of gives the count of a name.
func (t *tally) of(name string) *count {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts[name] == nil {
		t.counts[name] = new(count)
		t.names = append(t.names, name)
	}
	return t.counts[name]
}

// fault notes something that is wrong and says so at once.
func (t *tally) fault(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.log, "soak: %v: WRONG: %s\n", time.Since(t.begin).Round(time.Second), text)
	if t.faults = append(t.faults, text); len(t.faults) >= maxFaults {
		t.enough()
	}
}

// wrong are the faults so far.
func (t *tally) wrong() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.faults)
}

// sum is of all names.
func (t *tally) sum() (done, bytes uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.counts {
		done += c.done.Load()
		bytes += c.bytes.Load()
	}
	return done, bytes
}

// repeat does a job until ctx ends; what is under way then is finished.
func (t *tally) repeat(ctx context.Context, j job, seed uint64, number int) {
	n := t.of(j.name)
	h := fnv.New64a()
	fmt.Fprint(h, j.name, number)
	r := rand.New(rand.NewPCG(seed, h.Sum64()))
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*patience)
		err := j.do(once, r, n)
		cancel()
		n.done.Add(1)
		if err != nil {
			t.fault(fmt.Sprintf("%s: %s: %v", j.place, j.name, err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(j.pause)):
		}
	}
}
