package test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"epiphyte/test/harness"
)

// TestB8_IdleCostsNothing: no CPU time and hardly a wake-up in three seconds.
func TestB8_IdleCostsNothing(t *testing.T) {
	w := serve(t)
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	w.dial(t, "tcp4", addr.String()) // an idle connection is idle too
	// Neighbour discovery of the guest's kernel and the runtime's own first
	// garbage collection are over by then.
	<-time.After(2 * time.Second)
	if err := w.rests(t, 3*time.Second); err != nil {
		t.Error(err)
	}
}

func (w *world) rests(t *testing.T, idle time.Duration) error {
	t.Helper()
	return rests(t, w.helper.PID, idle)
}

// rests looks at a process for a while: no CPU time but 10 ms in 3 s, and no
// more than one wake-up a second.
func rests(t *testing.T, pid int, idle time.Duration) error {
	t.Helper()
	before, switches := must(harness.UsageOf(pid))(t), must(harness.SwitchesOf(pid))(t)
	<-time.After(idle)
	after, switched := must(harness.UsageOf(pid))(t), must(harness.SwitchesOf(pid))(t)-switches
	if cpu := after.CPU - before.CPU; cpu > idle/300 {
		return fmt.Errorf("%v of CPU time in %v of doing nothing", cpu, idle)
	}
	if float64(switched) > idle.Seconds() {
		return fmt.Errorf("woke %d times in %v of doing nothing", switched, idle)
	}
	return nil
}

// TestB8_BurstsComeToRest: after round trips in quick succession, for which the
// helper waits awake, and some thousand connections it comes to rest as before.
func TestB8_BurstsComeToRest(t *testing.T) {
	t.Parallel()
	w := serve(t)
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	trip := func(c net.Conn) {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	c := w.dial(t, "tcp4", addr.String())
	for range 5000 {
		trip(c)
	}
	for range 2000 {
		c := must(w.Dial(t.Context(), "tcp4", addr.String()))(t)
		trip(c)
		c.Close()
	}
	// After TIME-WAIT of the last connections, and the collection five seconds
	// later that gives their memory back.
	eventually(t, 30*time.Second, func() error { return w.rests(t, 3*time.Second) })
}
