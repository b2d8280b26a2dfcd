package forwarder

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/testnet"
	"epiphyte/internal/testworld"
	"epiphyte/stack"
)

// rig is a forwarder in a world that the test drives turn by turn, on its own
// goroutine: a fake device and a fake clock, but real sockets and a real poller.
type rig struct {
	*testworld.World
	clock shardtest.Clock
	f     *Forwarder
	inbox []testnet.Packet // received, and not asked for yet
}

// Addresses of the default plan, from where the tests stand.
var (
	guest4    = netip.MustParseAddr("10.0.2.100")
	guest6    = netip.MustParseAddr("fd00::64")
	gateway4  = netip.MustParseAddr("10.0.2.2")
	gateway6  = netip.MustParseAddr("fd00::2")
	gatewayLL = netip.MustParseAddr("fe80::2")

	broadcast4   = netip.MustParseAddr("255.255.255.255")
	dhcp6Servers = netip.MustParseAddr("ff02::1:2")
)

// setup is what a test wants to be different. Of the Config only the Policy, the
// services and the Logger are looked at.
type setup struct {
	Config
	rules  policy.Rules
	limits flow.Limits
}

func newRig(t *testing.T, with setup) *rig {
	t.Helper()
	return newRigOn(t, with, false)
}

// newRigOn makes a rig whose device takes super-segments, or does not.
func newRigOn(t *testing.T, with setup, offload bool) *rig {
	t.Helper()
	r := new(rig)
	r.World, r.f = assemble(t, with, testworld.Config{
		Device: testnet.DeviceConfig{Offload: offload}, Clock: &r.clock,
	})
	return r
}

// assemble puts a forwarder into a world.
func assemble(t *testing.T, with setup, cfg testworld.Config) (*testworld.World, *Forwarder) {
	t.Helper()
	cfg.Rules, cfg.Limits = with.rules, with.limits
	var f *Forwarder
	w := testworld.New(t, cfg, func(w *testworld.World) stack.Handler {
		c := with.Config
		c.Plan, c.Shard, c.Table, c.Relay, c.Batch = w.Plan, w.Shard, w.Table, w.Relay, w.Batch
		if c.Policy == nil {
			c.Policy = w.Policy
		}
		if c.Logger == nil {
			c.Logger = w.Logger
		}
		f = New(c)
		return f
	})
	f.Attach(w.Stack, nil)
	return w, f
}

// send has the guest send frames, and the shard take them.
func (r *rig) send(frames ...[]byte) {
	r.T.Helper()
	for _, f := range frames {
		if err := r.Port.Write(f); err != nil {
			r.T.Fatal(err)
		}
		r.turn()
	}
}

// turn runs the shard until what is there now has been handled.
func (r *rig) turn() {
	r.T.Helper()
	for range 4 {
		r.Turn(0)
	}
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) {
	r.clock.Advance(d)
	r.turn()
}

// until turns the shard until done, which something outside brings about.
func (r *rig) until(what string, done func() bool) {
	r.T.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); {
		if time.Now().After(deadline) {
			r.T.Fatalf("%s: not within 5 s", what)
		}
		r.Turn(time.Millisecond)
	}
}

// received returns the packets that the guest has been sent so far.
func (r *rig) received() []testnet.Packet {
	r.T.Helper()
	var got []testnet.Packet
	for {
		frame, err := r.Port.Read(time.Time{})
		if err == unix.EAGAIN {
			return got
		}
		if err != nil {
			r.T.Fatal(err)
		}
		p, err := testnet.Parse(frame)
		if err != nil {
			r.T.Errorf("a bad frame: %v", err)
		}
		got = append(got, p)
	}
}

// receive waits for the next packet of the protocol, past those of others.
func (r *rig) receive(proto uint8) testnet.Packet {
	r.T.Helper()
	var found *testnet.Packet
	r.until("packet for the guest", func() bool {
		r.inbox = append(r.inbox, r.received()...)
		for found == nil && len(r.inbox) > 0 {
			if p := r.inbox[0]; p.Proto == proto {
				found = &p
			}
			r.inbox = r.inbox[1:]
		}
		return found != nil
	})
	return *found
}

// counts says how many flows of each kind there are.
type counts struct{ Dials, TCP, Mappings int }

func countsOf(t *flow.Table) counts {
	return counts{t.Count(flow.Dial), t.Count(flow.Conn), t.Count(flow.Mapping)}
}

func (r *rig) counts() counts { return countsOf(r.Table) }

// countOf is how many flows of a kind a guest address has.
func (r *rig) countOf(k flow.Kind, guest netip.Addr) (n int) {
	r.Table.Each(k, func(f *flow.Flow) {
		if f.Src.Addr() == guest {
			n++
		}
	})
	return n
}

// flows are those of a kind, least recently used first.
func (r *rig) flows(k flow.Kind) (list []*flow.Flow) {
	r.Table.Each(k, func(f *flow.Flow) { list = append(list, f) })
	return list
}

func (r *rig) wantCounts(want counts) {
	r.T.Helper()
	if got := r.counts(); got != want {
		r.T.Fatalf("flows: %+v, want %+v", got, want)
	}
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
