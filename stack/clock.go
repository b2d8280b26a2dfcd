package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"epiphyte/internal/shard"
)

// clock gives gVisor the shard's clock and the shard's timers. With the Go
// runtime's, each timer of a connection would wake a second thread to run it,
// and each that is the next to fire a third to wait for it.
type clock struct{ shard *shard.Shard }

var _ tcpip.Clock = clock{}

func (c clock) Now() time.Time { return time.Now() }

func (c clock) NowMonotonic() tcpip.MonotonicTime {
	return tcpip.MonotonicTime{}.Add(c.shard.Clock().Now())
}

func (c clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	t := &timer{shard: c.shard, task: f}
	t.Reset(d)
	return t
}

// timer is a tcpip.Timer that fires on the shard's thread, between the batches
// of the device: no endpoint is locked then.
type timer struct {
	shard *shard.Shard
	timer shard.Timer
	task  shard.TaskFunc
}

// Stop implements tcpip.Timer.
func (t *timer) Stop() bool { return t.shard.Disarm(&t.timer) }

// Reset implements tcpip.Timer.
func (t *timer) Reset(d time.Duration) {
	// gVisor expresses "never" as the longest duration.
	const never = 1 << 62
	t.shard.ArmAt(&t.timer, t.shard.Clock().Now()+min(d, never), t.task)
}
