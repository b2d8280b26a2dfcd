package testnet

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Descriptors counts the open descriptors of the process.
func Descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) - 1 // the directory's own
}

// CheckLeaks remembers what is open now and, when the test and the cleanups
// registered after this call are done, fails it if descriptors or goroutines
// are left. It is no help to parallel tests.
func CheckLeaks(t testing.TB) {
	t.Helper()
	if r, w, err := os.Pipe(); err == nil { // or the runtime's poller counts as left
		r.Close()
		w.Close()
	}
	before := Descriptors(t)
	running := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if t.Failed() {
			return // what failed may well have left things behind
		}
		goleak.VerifyNone(t, running)
		if !Within(2*time.Second, func() bool { return Descriptors(t) <= before }) {
			t.Errorf("%d descriptors open, %d before", Descriptors(t), before)
		}
	})
}

// Within waits until done reports true, for at most d.
func Within(d time.Duration, done func() bool) bool {
	deadline := time.After(d)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			return done()
		case <-tick.C:
		}
	}
	return true
}
