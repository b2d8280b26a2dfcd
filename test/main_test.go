// Package test holds the end-to-end tests: a built helper serves real
// namespaces, and what a user of those namespaces notices is asserted.
//
// # Theory of operation
//
// Tests are named after the behaviours they prove (docs/behaviours.md). The
// harness beside them makes the network; see its package comment for who runs
// where. Tests whose assertion is a time run alone and first; the others share
// the processors with t.Parallel, each with a guest and a helper of its own.
// Every guest and helper is gone, and checked to be gone, when its test ends;
// the process as a whole is checked for leaks after the last test.
//
// With HELPER=/path/to/program another helper with the same command line is
// tested instead; what is ours alone is then skipped. With EPIPHYTE_FLAGS=--queues=2 or
// --bulk=always, say, every helper of ours is started with that option.
package test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"epiphyte/test/harness"
)

// env is set once, before any test runs.
var env *harness.Env

func TestMain(m *testing.M) {
	if os.Getenv(envElsewhere) != "" {
		if err := echoElsewhere(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(harness.Run(func(e *harness.Env) int {
		env = e
		stop := printProgress()
		code := m.Run()
		stop()
		if err := e.Races(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		if err := e.Leaks(); err != nil {
			fmt.Fprintf(os.Stderr, "left behind by the tests: %v\n", err)
			return max(code, 1)
		}
		return code
	}))
}

// guests counts those made so far.
var guests atomic.Int32

// printProgress says every now and then that the tests are at work, which take some
// minutes, until stop is called.
func printProgress() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	begin := time.Now()
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Second):
				fmt.Printf("end-to-end tests: %v, %d guests so far\n", time.Since(begin).Round(time.Second), guests.Load())
			}
		}
	}()
	return func() { cancel(); <-done }
}
