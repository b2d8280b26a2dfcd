package forwarder

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// rig is a forwarder that the test drives turn by turn, on its own goroutine:
// a fake device and a fake clock, but real sockets and a real poller.
type rig struct {
	t     *testing.T
	clock *fakeClock
	shard *shard.Shard
	table *flow.Table
	relay *relay.Relay
	f     *Forwarder
	dev   *testnet.Device
	port  *testnet.Port
	inbox []testnet.Packet // received, and not asked for yet
}

type fakeClock struct{ now time.Duration }

func (c *fakeClock) Now() time.Duration { return c.now }

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

// setup is what a test wants to be different. Of the Config the rig fills in what
// is required, but keeps a Policy that it is given.
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
	testnet.CheckLeaks(t)
	r := &rig{t: t, clock: new(fakeClock)}
	dev := testnet.NewDevice(t, testnet.DeviceConfig{Offload: offload})
	r.dev, r.port = dev, dev.Port()
	var err error
	if r.shard, err = shard.New(shard.Config{Clock: r.clock}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.shard.Close() })
	r.table = flow.New(r.shard, with.limits)
	r.relay = relay.New(relay.Config{Shard: r.shard, Table: r.table})
	cfg := with.Config
	cfg.Plan, with.rules.Plan = addressingtest.New(t), addressingtest.New(t)
	cfg.Shard, cfg.Table, cfg.Relay, cfg.Batch = r.shard, r.table, r.relay, new(sockio.Batch)
	if cfg.Policy == nil {
		cfg.Policy = &with.rules
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r.f = New(cfg)
	st, err := stack.New(stack.Config{
		Device: dev, Shard: r.shard, Plan: cfg.Plan, Handler: r.f, MTU: 1500, Logger: cfg.Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	r.f.Attach(st, nil)
	t.Cleanup(r.close)
	return r
}

// close ends every flow. The stack is closed after it.
func (r *rig) close() {
	r.table.Close()
	r.relay.Close()
}

// send has the guest send frames, and the shard take them.
func (r *rig) send(frames ...[]byte) {
	r.t.Helper()
	for _, f := range frames {
		if err := r.port.Write(f); err != nil {
			r.t.Fatal(err)
		}
		r.turn()
	}
}

// turn runs the shard until what is there now has been handled.
func (r *rig) turn() {
	r.t.Helper()
	for range 4 {
		if err := r.shard.Turn(0); err != nil {
			r.t.Fatal(err)
		}
	}
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) {
	r.clock.now += d
	r.turn()
}

// until turns the shard until done, which something outside brings about.
func (r *rig) until(what string, done func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within 5 s", what)
		}
		if err := r.shard.Turn(time.Millisecond); err != nil {
			r.t.Fatal(err)
		}
	}
}

// received returns the packets that the guest has been sent so far.
func (r *rig) received() []testnet.Packet {
	r.t.Helper()
	var got []testnet.Packet
	for {
		frame, err := r.port.Read(time.Time{})
		if err == unix.EAGAIN {
			return got
		}
		if err != nil {
			r.t.Fatal(err)
		}
		p, err := testnet.Parse(frame)
		if err != nil {
			r.t.Errorf("a bad frame: %v", err)
		}
		got = append(got, p)
	}
}

// receive waits for the next packet of the protocol, past those of others.
func (r *rig) receive(proto uint8) testnet.Packet {
	r.t.Helper()
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

func (r *rig) counts() counts {
	return counts{r.table.Count(flow.Dial), r.table.Count(flow.Conn), r.table.Count(flow.Mapping)}
}

// countOf is how many flows of a kind a guest address has.
func (r *rig) countOf(k flow.Kind, guest netip.Addr) (n int) {
	r.table.Each(k, func(f *flow.Flow) {
		if f.Src.Addr() == guest {
			n++
		}
	})
	return n
}

// flows are those of a kind, least recently used first.
func (r *rig) flows(k flow.Kind) (list []*flow.Flow) {
	r.table.Each(k, func(f *flow.Flow) { list = append(list, f) })
	return list
}

func (r *rig) wantCounts(want counts) {
	r.t.Helper()
	if got := r.counts(); got != want {
		r.t.Fatalf("flows: %+v, want %+v", got, want)
	}
}

// listenUDP opens a UDP socket on the host's loopback.
func listenUDP(t *testing.T, addr string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Skipf("listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// silentListener returns a TCP listener that lets connects hang: its queue is
// full and stays so.
func silentListener(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	// A queue of length n holds n+1.
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(c) })
	if err := unix.Connect(c, sa); err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
