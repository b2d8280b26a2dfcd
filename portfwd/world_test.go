package portfwd

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"epiphyte/forwarder"
	"epiphyte/internal/addressing"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// patience bounds every wait that ought to end by itself.
const patience = 10 * time.Second

// setting is one way to build a world. Its zero value is the usual one.
type setting struct {
	noIPv6     bool
	noLoopback bool             // --disable-host-loopback
	clock      *shardtest.Clock // nil: the kernel's
	idle       bool             // nobody serves the shard: the test does
	limits     flow.Limits
}

// world is a manager with all that it needs: a stack, a guest's netstack behind
// a device made of sockets, and the host's loopback.
type world struct {
	*Manager
	t     *testing.T
	plan  addressing.Plan
	shard *shard.Shard
	table *flow.Table
	stack *stack.Stack
	guest *testnet.Guest
	end   func() // closes all flows
	stop  func() // ends serving; idempotent
}

func newWorld(t *testing.T, s setting) *world {
	t.Helper()
	testnet.CheckLeaks(t)
	var prefix6 netip.Prefix
	if !s.noIPv6 {
		prefix6 = addressing.DefaultIPv6()
	}
	p, err := addressing.New(addressing.DefaultIPv4(), prefix6)
	if err != nil {
		t.Fatal(err)
	}
	dev := testnet.NewDevice(t, testnet.DeviceConfig{})
	w := &world{t: t, plan: p}
	cfg := shard.Config{}
	if s.clock != nil {
		cfg.Clock = s.clock
	}
	if w.shard, err = shard.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.shard.Close() })
	log := slog.New(slog.DiscardHandler)
	w.table = flow.New(w.shard, s.limits)
	r := relay.New(relay.Config{Shard: w.shard, Table: w.table})
	rules := &policy.Rules{Plan: p, DisableHostLoopback: s.noLoopback}
	batch := new(sockio.Batch)
	f := forwarder.New(forwarder.Config{
		Plan: p, Policy: rules, Shard: w.shard, Table: w.table, Relay: r, Batch: batch, Logger: log,
	})
	w.stack, err = stack.New(stack.Config{
		Device: dev, Shard: w.shard, Plan: p, Handler: f, MTU: 1500, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.stack.Close() })
	w.end = func() { w.table.Close(); r.Close() }
	t.Cleanup(w.end)
	w.Manager = New(Config{
		Plan: p, Policy: rules, Shard: w.shard, Table: w.table, Relay: r, Batch: batch, Stack: w.stack, Logger: log,
	})
	f.Attach(w.stack, w.Manager)
	t.Cleanup(w.Manager.Close)
	w.stop = func() {}
	if !s.idle {
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- w.shard.Serve(ctx) }()
		w.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		t.Cleanup(func() { w.stop() })
	}
	w.guest = testnet.NewGuest(t, dev, p, 1500)
	if !s.noIPv6 && !s.idle {
		w.learn(netip.AddrPortFrom(p.Gateway6, 547)) // where it opens no socket
	}
	return w
}

// learn has the guest say something, so that its IPv6 address is known: before
// it has spoken it is taken for what SLAAC makes, as a kernel's would be.
func (w *world) learn(to netip.AddrPort) {
	w.t.Helper()
	c, err := w.guest.DialUDP(0, to, true)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the guest's IPv6 address is known", func() bool { return w.stack.GuestAddr6() == w.guest.Addr6 })
}

// receive waits for a value, but not for ever.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eachPath runs a test in a world of the usual kind.
func eachPath(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	test(t, newWorld(t, setting{}))
}

// eachFamily runs a test with the loopback address of either family.
func eachFamily(t *testing.T, test func(t *testing.T, loop netip.Addr)) {
	t.Helper()
	t.Run("IPv4", func(t *testing.T) { test(t, loop4) })
	t.Run("IPv6", func(t *testing.T) {
		if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
			t.Skipf("no IPv6 here: %v", err)
		} else {
			l.Close()
		}
		test(t, netip.IPv6Loopback())
	})
}

var loop4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// onShard runs f on the shard's thread.
func (w *world) onShard(f func()) {
	w.t.Helper()
	done := make(chan struct{})
	if !w.shard.Post(shard.TaskFunc(func() { f(); close(done) })) {
		w.t.Fatal("the shard is closed")
	}
	select {
	case <-done:
	case <-time.After(patience):
		w.t.Fatal("the shard does not run")
	}
}

// turn is one turn of the shard of an idle world, which may sleep for wait.
func (w *world) turn(wait time.Duration) {
	w.t.Helper()
	if err := w.shard.Turn(wait); err != nil {
		w.t.Fatal(err)
	}
}

// wantRest fails if the shard of an idle world spins. A descriptor that were
// still watched would end each of these waits at once; a signal of the runtime's
// ends one now and then.
func (w *world) wantRest() {
	w.t.Helper()
	turns := 0
	for begin := time.Now(); time.Since(begin) < 60*time.Millisecond; turns++ {
		w.turn(20 * time.Millisecond)
	}
	if turns > 20 {
		w.t.Errorf("%d turns in 60 ms: the shard is spinning", turns)
	}
}

// eventually waits until done, on the shard's thread, reports true.
func (w *world) eventually(what string, done func() bool) {
	w.t.Helper()
	if !testnet.Within(patience, func() (ok bool) {
		w.onShard(func() { ok = done() })
		return ok
	}) {
		w.t.Fatalf("%s: not within %v", what, patience)
	}
}

// exposedClients is how many clients of exposed ports wait for the host, and how many are
// joined to it.
func (w *world) exposedClients() (waiting, joined int) {
	w.table.Each(flow.Exposed, func(f *flow.Flow) {
		if f.State < flow.Established {
			waiting++
		} else {
			joined++
		}
	})
	return waiting, joined
}

// wantIdle waits until no client is carried in any more.
func (w *world) wantIdle() {
	w.t.Helper()
	w.eventually("no connection left", func() bool {
		return w.table.Count(flow.Client) == 0 && w.table.Count(flow.Conn) == 0 && w.stack.Conns() == 0
	})
}

// publish adds a rule that must work, on a port that is free now.
func (w *world) publish(proto string, host netip.Addr, guestPort uint16) Entry {
	w.t.Helper()
	e, err := w.Add(w.t.Context(), Rule{Proto: proto, Host: host, HostPort: freePort(w.t, proto, host), GuestPort: guestPort})
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// address is where clients of a rule connect to.
func address(e Entry) netip.AddrPort { return netip.AddrPortFrom(e.Rule.Host, e.Rule.HostPort) }

// freePort is a port of the host that nobody has at the moment.
func freePort(t *testing.T, proto string, host netip.Addr) uint16 {
	t.Helper()
	at := netip.AddrPortFrom(host, 0)
	if proto == UDP {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// guestAddr is the guest's address of the family of host.
func (w *world) guestAddr(host netip.Addr) netip.Addr {
	if host.Is4() {
		return w.guest.Addr
	}
	return w.guest.Addr6
}

func (w *world) gateway(host netip.Addr) netip.Addr {
	if host.Is4() {
		return w.plan.Gateway
	}
	return w.plan.Gateway6
}

// serve listens in the guest and calls handle for each connection; all of it
// ends with the test.
func (w *world) serve(host netip.Addr, port uint16, handle func(net.Conn)) *gonet.TCPListener {
	w.t.Helper()
	l, err := w.guest.ListenTCP(port, host.Is6())
	if err != nil {
		w.t.Fatal(err)
	}
	acceptAll(w.t, l, handle)
	return l
}

// acceptAll calls handle for each connection; all of it ends with the test.
func acceptAll(t *testing.T, l net.Listener, handle func(net.Conn)) {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
}

// echo sends everything back, and the end of the stream too.
func echo(c net.Conn) {
	if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err == nil {
		c.(interface{ CloseWrite() error }).CloseWrite()
	}
}

// dial connects a client of the host.
func dial(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// says sends a message through an echo and wants it back.
func says(t *testing.T, c io.ReadWriter, message string) {
	t.Helper()
	if _, err := io.WriteString(c, message); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != message {
		t.Fatalf("%q came back for %q, %v", got, message, err)
	}
}
