package test

import (
	"fmt"
	"testing"
	"time"

	"epiphyte/test/harness"
)

// TestN9_Rests: a network of ten members that have nothing to say uses no CPU time
// and is hardly woken, worker and keeper, and a member costs little memory.
func TestN9_Rests(t *testing.T) {
	t.Parallel()
	const members = 10
	// A member's: its port, names and connection, in both processes.
	const memberMemory = 300 << 10
	n := newNetworks(t)
	n.run(t, "web", "first")
	info := n.inspect(t, "web")
	processes := map[string]int{"worker": info.Worker, "keeper": info.Keeper}
	memory := func() (sum int64) {
		for _, pid := range processes {
			sum += must(harness.UsageOf(pid))(t).RSS
		}
		return sum
	}
	before := memory()
	for i := range members {
		n.attach(t, "web", fmt.Sprint("m", i), newGuest(t).PID)
	}
	// Their kernels have said by then what they say when an interface comes up.
	eventually(t, time.Minute, func() error {
		for what, pid := range processes {
			if err := rests(t, pid, 3*time.Second); err != nil {
				return fmt.Errorf("the %s: %w", what, err)
			}
		}
		return nil
	})
	each := (memory() - before) / members
	t.Logf("worker and keeper have %d kB with one member, and %d kB for each more", before>>10, each>>10)
	if each > memberMemory {
		t.Errorf("a member costs %d kB, want %d at most", each>>10, memberMemory>>10)
	}
}
