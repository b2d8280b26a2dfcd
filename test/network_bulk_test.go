package test

import (
	"fmt"
	"net"
	"testing"

	"epiphyte/test/harness"
)

// TestN11_BulkToOutside: what members exchange with servers outside leaves the bridge, with a
// client of their own and without, and is listed as theirs.
func TestN11_BulkToOutside(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	outside := newOutside(t)
	for _, m := range []*member{
		n.run(t, "web", "runs"),
		n.attach(t, "web", "attached", newGuest(t).PID),
		n.connect(t, "web", "detached", newGuest(t).PID),
	} {
		t.Run(m.Name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				// The agent of a detached member comes with the first busy connection.
				eventually(t, deadline, func() error {
					c, err := m.Dial(timeout(t, deadline), "tcp"+f.v, net.JoinHostPort(outside.of(f), echoPort))
					if err != nil {
						return err
					}
					defer c.Close()
					before := n.frames(t, m)
					const rounds, size = 800, 64 << 10
					for i := range rounds {
						if err := echoes(c, string(random(uint64(i), size))); err != nil {
							return err
						}
					}
					// On the bridge there is a frame for 64 kB at most.
					if passed := n.frames(t, m) - before; passed > rounds*size/(64<<10)/2 {
						return fmt.Errorf("%d frames crossed the bridge", passed)
					}
					return nil
				})
			})
			noRules(t, m.Guest)
		})
	}
}

// frames is how many frames a member has sent so far.
func (n *networks) frames(t testing.TB, m *member) uint64 {
	t.Helper()
	for _, other := range n.inspect(t, m.network).members {
		if other.Name == m.Name {
			return other.Stats.FromFrames
		}
	}
	t.Fatalf("%s is no member", m.Name)
	return 0
}

// TestN11_DetachedSurviveTheWorker: connections between members without a client are spliced by
// the keeper, so they outlive the worker; the next one removes their rules when they have ended,
// and hands further ones over.
func TestN11_DetachedSurviveTheWorker(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	a, b := n.connect(t, "web", "a", newGuest(t).PID), n.connect(t, "web", "b", newGuest(t).PID)
	const size = 256 << 20
	for _, worker := range []string{"first", "second"} {
		resume := make(chan struct{})
		half, done := transfer(t, a, b, size, resume)
		<-half
		eventually(t, deadline, func() error { return isCarried(a, b) })
		kill(t, n.inspect(t, "web").Worker)
		close(resume)
		if err := <-done; err != nil {
			t.Fatalf("while the %s worker was killed: %v", worker, err)
		}
		noRules(t, a.Guest)
		noRules(t, b.Guest)
	}
	// It has started the agents, which end with it.
	kill(t, n.inspect(t, "web").Keeper)
	eventually(t, deadline, func() error {
		if left := harness.ProcessesWith(n.variable()); len(left) > 0 {
			return fmt.Errorf("processes left: %v", left)
		}
		return nil
	})
	n.run(t, "web", "next").leave() // whose network removes the files of the one that was killed
}

// isCarried is an error unless both members' kernels have a rule for a connection.
func isCarried(all ...*member) error {
	for _, m := range all {
		if rules, err := rulesOf(m.Guest); err != nil || len(rules) == 0 {
			return fmt.Errorf("no connection of %s is carried: %w", m.Name, err)
		}
	}
	return nil
}
