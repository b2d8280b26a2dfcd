package portfwd

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/testnet"
)

// newSilentWorld has a port whose server never answers, so that clients stay, and
// moves only when it is told to.
func newSilentWorld(t *testing.T, limits flow.Limits) (*world, *shardtest.Clock, Entry) {
	t.Helper()
	clock := new(shardtest.Clock)
	w := newWorld(t, setting{clock: clock, idle: true, limits: limits})
	e, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: testnet.FreePort(t, TCP, loop4), Guest: silent4})
	if err != nil {
		t.Fatal(err)
	}
	w.Turn(0)
	return w, clock, e
}

// B19: out of descriptors the listener rests instead of spinning; the client
// waits in the queue and is served when there are descriptors again.
func TestB19_AcceptPause(t *testing.T) {
	w, clock, e := newSilentWorld(t, flow.Limits{})
	c := dial(t, address(e))
	restore := fillDescriptors(t)
	w.Turn(0)
	if w.Table.Count(flow.Client) != 0 || len(w.paused) != 1 || !w.Shard.Armed(&w.retry) {
		t.Fatalf("out of descriptors: %d clients, %d listeners paused, timer armed: %v", w.Table.Count(flow.Client), len(w.paused), w.Shard.Armed(&w.retry))
	}
	w.wantRest()
	for range 3 { // once more for each pause, and not more often
		clock.Advance(acceptPause)
		w.Turn(0)
		w.Turn(0)
		if len(w.paused) != 1 {
			t.Errorf("%d listeners paused, want 1", len(w.paused))
		}
	}
	restore()
	clock.Advance(acceptPause)
	w.Turn(0)
	w.Turn(0)
	if w.Table.Count(flow.Client) != 1 || len(w.paused) != 0 || w.Shard.Armed(&w.retry) {
		t.Errorf("with descriptors again: %d clients, %d listeners paused, timer armed: %v", w.Table.Count(flow.Client), len(w.paused), w.Shard.Armed(&w.retry))
	}
	c.Close()
}

// A listener that is removed while it rests stays closed.
func TestRemoveWhilePaused(t *testing.T) {
	clock := new(shardtest.Clock)
	w := newWorld(t, setting{clock: clock})
	e, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: testnet.FreePort(t, TCP, loop4), Guest: silent4})
	if err != nil {
		t.Fatal(err)
	}
	w.Do(func() { w.rules[e.ID].sockets[0].(*tcpPort).pause() })
	if err := w.Remove(e.ID); err != nil {
		t.Fatal(err)
	}
	clock.Advance(acceptPause)
	w.eventually("the pause is over", func() bool { return len(w.paused) == 0 && !w.Shard.Armed(&w.retry) })
	// The same, removed by Close at the end of the test.
	e = w.publish(TCP, loop4, 80)
	w.Do(func() { w.rules[e.ID].sockets[0].(*tcpPort).pause() })
}

// Clients that wait are bounded: further ones wait in the listener's queue.
func TestWaitingClientsAreBounded(t *testing.T) {
	w, clock, e := newSilentWorld(t, flow.Limits{Clients: 2})
	for range 3 {
		dial(t, address(e))
	}
	w.Turn(0)
	if n := w.Table.Count(flow.Client); n != 2 || len(w.paused) != 1 {
		t.Errorf("%d clients, %d listeners paused, want 2 and 1", n, len(w.paused))
	}
	clock.Advance(dialTimeout)
	w.Turn(0) // the two are given up, and the listener is heard again
	w.Turn(0)
	if n := w.Table.Count(flow.Client); n != 1 || len(w.paused) != 0 {
		t.Errorf("%d clients, %d listeners paused, want 1 and none", n, len(w.paused))
	}
}

// fillDescriptors opens descriptors until there are no more, and undoes it.
func fillDescriptors(t *testing.T) (restore func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 128
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var fds []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		fds = append(fds, fd)
	}
	restore = sync.OnceFunc(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	})
	t.Cleanup(restore)
	return restore
}
