package portfwd

import (
	"errors"
	"io"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
)

// slow is a Decider that has every flow of the Manager wait until it is resolved.
// The shard's thread alone touches it while a world serves.
type slow struct {
	policy.Pending
	asked []policy.Request
}

func (s *slow) Decide(q policy.Request) policy.Decision {
	s.asked = append(s.asked, q)
	return policy.Decision{Action: policy.Wait, Pending: &s.Pending}
}

// waits waits until one flow of the kind waits for its decision, and is asked for once.
func (w *world) waits(s *slow, k flow.Kind) {
	w.T.Helper()
	w.eventually("a flow waits for its decision", func() bool {
		waiting := 0
		w.Table.Each(k, func(f *flow.Flow) {
			if f.State == flow.Deciding {
				waiting++
			}
		})
		return waiting == 1 && len(s.asked) == 1
	})
}

// resolve gives the decision of the world's rules.
func (w *world) resolve(s *slow) {
	w.Do(func() { s.Resolve(w.Policy.Decide(s.asked[0])) })
}

// A client that is allowed later is carried in then, with what it has sent meanwhile.
func TestClientIsAllowedLater(t *testing.T) {
	s := new(slow)
	w := newWorld(t, setting{policy: s})
	w.serve(loop4, 80, echo)
	c := dial(t, address(w.publish(TCP, loop4, 80)))
	if _, err := c.Write([]byte("early ")); err != nil {
		t.Fatal(err)
	}
	w.waits(s, flow.Client)
	w.resolve(s)
	if _, err := c.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	wantRead(t, c, "early late", nil)
	w.wantIdle()
}

// A client that is refused later is reset, and nothing of it is left.
func TestClientIsRefusedLater(t *testing.T) {
	s := new(slow)
	w := newWorld(t, setting{policy: s})
	c := dial(t, address(w.publish(TCP, loop4, 80)))
	w.waits(s, flow.Client)
	w.Do(func() { s.Resolve(policy.Decision{Action: policy.Refuse, Errno: unix.EACCES}) })
	wantRead(t, c, "", unix.ECONNRESET)
	w.wantIdle()
}

// A decision that comes when the table has been closed finds nobody.
func TestClientEndsBeforeItsDecision(t *testing.T) {
	s := new(slow)
	w := newWorld(t, setting{policy: s})
	c := dial(t, address(w.publish(TCP, loop4, 80)))
	w.waits(s, flow.Client)
	w.Stop()
	w.EndFlows()
	s.Resolve(policy.Decision{Action: policy.Allow, From: netip.MustParseAddrPort("192.0.2.1:1"), To: netip.MustParseAddrPort("10.0.2.100:80")})
	wantRead(t, c, "", nil)
}

// Clients of exposed ports wait, too.
func TestExposedClientIsDecidedLater(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		s := new(slow)
		w := newWorld(t, setting{policy: s})
		c := dial(t, w.expose(loop4, serveHost(t, loop4, echo)))
		w.waits(s, flow.Exposed)
		if allowed {
			w.resolve(s)
			says(t, c, "hello")
			c.Close()
		} else {
			w.Do(func() { s.Resolve(policy.Decision{}) })
			wantRead(t, c, "", unix.ECONNRESET)
		}
		w.wantNoExposed()
	}
}

// A copy of a datagram waits, and is delivered then.
func TestDatagramIsAllowedLater(t *testing.T) {
	s := new(slow)
	w := newWorld(t, setting{policy: s})
	_, received := w.serveUDP(loop4, 53, false)
	c := udpClient(t, netip.AddrPort{}, address(w.publish(UDP, loop4, 53)))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	w.eventually("the policy is asked", func() bool { return len(s.asked) == 1 })
	if n := w.sessionCount(); n != 0 || len(received) != 0 {
		t.Errorf("%d sessions, %d datagrams before the decision", n, len(received))
	}
	w.resolve(s)
	if got := receive(t, received); got.payload != "hello" {
		t.Errorf("the server received %q", got.payload)
	}
}

// wantRead reads until the end, which is err.
func wantRead(t *testing.T, c io.Reader, want string, errno error) {
	t.Helper()
	got, err := io.ReadAll(c)
	if string(got) != want || !errors.Is(err, errno) {
		t.Errorf("read %q, %v; want %q, %v", got, err, want, errno)
	}
}
