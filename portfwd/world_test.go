package portfwd

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"epiphyte/forwarder"
	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/sockdiag"
	"epiphyte/internal/testnet"
	"epiphyte/internal/testworld"
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
	policy     policy.Decider // of the Manager; nil: the world's rules
	sockets    func(netip.Addr) Sockets

	guestSockets GuestSockets
	auto         bool // both namespaces are this one
}

// world is a manager with all that it needs, and a guest's netstack.
type world struct {
	*testworld.World
	*Manager
}

func newWorld(t *testing.T, s setting) *world {
	t.Helper()
	cfg := testworld.Config{Rules: policy.Rules{DisableHostLoopback: s.noLoopback}, Limits: s.limits}
	if s.noIPv6 {
		cfg.Plan = addressingtest.IPv4Only(t)
	}
	if s.clock != nil {
		cfg.Clock = s.clock
	}
	w := new(world)
	var f *forwarder.Forwarder
	w.World = testworld.New(t, cfg, func(w *testworld.World) stack.Handler {
		f = forwarder.New(forwarder.Config{
			Plan: w.Plan, Policy: w.Policy, Shard: w.Shard, Table: w.Table, Relay: w.Relay, Batch: w.Batch, Logger: w.Logger,
		})
		return f
	})
	if s.policy == nil {
		s.policy = w.Policy
	}
	pc := Config{
		Plan: w.Plan, Policy: s.policy, Shard: w.Shard, Table: w.Table, Relay: w.Relay, Batch: w.Batch, Stack: w.Stack, Logger: w.Logger,
		Sockets: s.sockets, GuestSockets: s.guestSockets,
	}
	if s.auto {
		pc.GuestSockets, pc.LoopbackServers = hostSockets, true
		for _, to := range []**sockdiag.Socket{&pc.HostPorts, &pc.GuestPorts} {
			var err error
			if *to, err = sockdiag.Open(); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Manager = New(pc)
	f.Attach(w.Stack, w.Manager)
	t.Cleanup(w.Manager.Close)
	if !s.idle {
		w.Start()
	}
	w.AttachGuest()
	if !s.noIPv6 && !s.idle {
		w.learn(netip.AddrPortFrom(w.Plan.Gateway6, 547)) // where it opens no socket
	}
	return w
}

// learn has the guest say something, so that its IPv6 address is known: before
// it has spoken it is taken for what SLAAC makes, as a kernel's would be.
func (w *world) learn(to netip.AddrPort) {
	w.T.Helper()
	c, err := w.Guest.DialUDP(0, to, true)
	if err != nil {
		w.T.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		w.T.Fatal(err)
	}
	w.eventually("the guest's IPv6 address is known", func() bool { return w.Stack.GuestAddr6() == w.Guest.Addr6 })
}

// receive waits for a value, but not for ever.
func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eachFamily runs a test with the loopback address of either family.
func eachFamily(t *testing.T, test func(t *testing.T, loop netip.Addr)) {
	t.Helper()
	t.Run("IPv4", func(t *testing.T) { test(t, loop4) })
	t.Run("IPv6", func(t *testing.T) {
		testnet.FreePort(t, "tcp", netip.IPv6Loopback()) // or there is no IPv6 here
		test(t, netip.IPv6Loopback())
	})
}

var loop4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// wantRest fails if the shard of an idle world spins. A descriptor that were
// still watched would end each of these waits at once; a signal of the runtime's
// ends one now and then.
func (w *world) wantRest() {
	w.T.Helper()
	turns := 0
	for begin := time.Now(); time.Since(begin) < 60*time.Millisecond; turns++ {
		w.Turn(20 * time.Millisecond)
	}
	if turns > 20 {
		w.T.Errorf("%d turns in 60 ms: the shard is spinning", turns)
	}
}

// eventually waits until done, on the shard's thread, reports true.
func (w *world) eventually(what string, done func() bool) {
	w.T.Helper()
	if !testnet.Within(patience, func() (ok bool) {
		w.Do(func() { ok = done() })
		return ok
	}) {
		w.T.Fatalf("%s: not within %v", what, patience)
	}
}

// exposedClients is how many clients of exposed ports wait for the host, and how many are
// joined to it.
func (w *world) exposedClients() (waiting, joined int) {
	w.Table.Each(flow.Exposed, func(f *flow.Flow) {
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
	w.T.Helper()
	w.eventually("no connection left", func() bool {
		return w.Table.Count(flow.Client) == 0 && w.Table.Count(flow.Conn) == 0 && w.Stack.Conns() == 0
	})
}

// publish adds a rule that must work, on a port that is free now.
func (w *world) publish(proto string, host netip.Addr, guestPort uint16) Entry {
	w.T.Helper()
	e, err := w.Add(w.T.Context(), Rule{Proto: proto, Host: host, HostPort: testnet.FreePort(w.T, proto, host), GuestPort: guestPort})
	if err != nil {
		w.T.Fatal(err)
	}
	return e
}

// address is where clients of a rule connect to.
func address(e Entry) netip.AddrPort { return netip.AddrPortFrom(e.Rule.Host, e.Rule.HostPort) }

// gateway is the gateway of the family of host.
func (w *world) gateway(host netip.Addr) netip.Addr {
	if host.Is4() {
		return w.Plan.Gateway
	}
	return w.Plan.Gateway6
}

// serve listens in the guest and calls handle for each connection; all of it
// ends with the test.
func (w *world) serve(host netip.Addr, port uint16, handle func(net.Conn)) *gonet.TCPListener {
	w.T.Helper()
	l, err := w.Guest.ListenTCP(port, host.Is6())
	if err != nil {
		w.T.Fatal(err)
	}
	acceptAll(w.T, l, handle)
	return l
}

// acceptAll calls handle for each connection; all of it ends with the test.
func acceptAll(t testing.TB, l net.Listener, handle func(net.Conn)) {
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
func dial(t testing.TB, to netip.AddrPort) *net.TCPConn {
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
func says(t testing.TB, c io.ReadWriter, message string) {
	t.Helper()
	if _, err := io.WriteString(c, message); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != message {
		t.Fatalf("%q came back for %q, %v", got, message, err)
	}
}

// tryBind is a socket at an address, or why there is none.
func tryBind(proto string, at netip.AddrPort) (int, unix.Errno) {
	fd, err := place{proto: proto, addr: at}.open(context.Background(), true)
	if e, ok := errors.AsType[*BindError](err); ok {
		return -1, e.Errno
	}
	return fd, 0
}

// hostSockets are in place of those of a guest's namespace.
func hostSockets(_ context.Context, family, typ, n int) (fds []int, err error) {
	for range n {
		fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// exposeRule exposes ports on sockets of ours, as there are in the guest.
func (w *world) exposeRule(e Exposed) error {
	b, err := BindExposed(w.T.Context(), w.Plan, []Exposed{e}, hostSockets)
	if err != nil {
		return err
	}
	_, err = w.Serve(b[0])
	return err
}
