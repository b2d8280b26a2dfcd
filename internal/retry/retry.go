// Package retry tries something again that fails for as long as another process is on
// its way out, or the kernel on its way to an end.
//
// # Theory of operation
//
// While is for starts, which may wait: it holds its goroutine, and sleeps between two
// tries because the kernel has no event for what is waited for. The outcome of a try
// is its own to keep.
//
// What it does not do: it serves nothing on the data path, where a shard's timers do.
package retry

import (
	"context"
	"time"
)

// While calls try until it does not ask for another try, or patience is over, with a
// pause between two calls. It calls it at least once. The error is the cause of the
// end of ctx during a pause, and nil otherwise.
func While(ctx context.Context, patience, pause time.Duration, try func() (again bool)) error {
	deadline := time.Now().Add(patience)
	for try() && time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
	return nil
}
