package forwarder_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"epiphyte/forwarder"
	"epiphyte/internal/addressing"
	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// patience bounds every wait that ought to end by itself.
const patience = 10 * time.Second

// lossyPatience: each segment lost again has TCP wait twice as long, and the
// waits stay long until a segment is acknowledged at the first attempt.
const lossyPatience = 12 * patience

// world is a whole way out: a guest's netstack, a device, the stack and the
// forwarder on a serving shard, and the host's loopback at the end.
type world struct {
	t     *testing.T
	plan  addressing.Plan
	shard *shard.Shard
	table *flow.Table
	stack *stack.Stack
	port  *testnet.Port
	guest *testnet.Guest

	patience time.Duration // with this device
}

// kind is one way to build the data path.
type kind struct {
	name    string
	mtu     int
	offload bool
	lossy   uint64 // seed of a device that loses frames; zero: a good one
}

var kinds = []kind{
	{name: "inline", mtu: 1500},
	{name: "offload", mtu: 65520, offload: true},
	{name: "offload-1500", mtu: 1500, offload: true},
}

// setup is what a test wants to be different.
type setup struct {
	rules  policy.Rules
	limits flow.Limits
}

// promptly runs a step that ought to take at most d, and again if it took
// longer: a machine that is busy with something else is slow once, not always.
func promptly(t *testing.T, what string, d time.Duration, step func() (took time.Duration)) {
	t.Helper()
	var best time.Duration
	for try := range 5 {
		took := step()
		if took <= d || t.Failed() {
			return
		}
		if try == 0 || took < best {
			best = took
		}
	}
	t.Errorf("%s took %v at best, want %v", what, best, d)
}

// eachKind runs a test on every data path.
func eachKind(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { test(t, newWorld(t, k, setup{})) })
	}
}

func newWorld(t *testing.T, k kind, with setup) *world {
	t.Helper()
	testnet.CheckLeaks(t)
	p := addressingtest.New(t)
	w := &world{t: t, plan: p, patience: patience}
	cfg := testnet.DeviceConfig{Offload: k.offload}
	if k.lossy != 0 {
		cfg.Impairment = testnet.Impairment{Seed: k.lossy, Loss: 1. / 60, Duplicate: 1. / 60, Reorder: 1. / 60}
		w.patience = lossyPatience
	}
	dev := testnet.NewDevice(t, cfg)
	w.port = dev.Port()
	var err error
	if w.shard, err = shard.New(shard.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.shard.Close() })
	log := slog.New(slog.DiscardHandler)
	with.rules.Plan = p
	w.table = flow.New(w.shard, with.limits)
	moves := relay.New(relay.Config{Shard: w.shard, Table: w.table})
	f := forwarder.New(forwarder.Config{
		Plan: p, Policy: &with.rules, Shard: w.shard, Table: w.table, Relay: moves, Batch: new(sockio.Batch), Logger: log,
	})
	w.stack, err = stack.New(stack.Config{
		Device: dev, Shard: w.shard, Plan: p, Handler: f, MTU: k.mtu, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.stack.Close() })
	f.Attach(w.stack, nil)
	t.Cleanup(func() { w.table.Close(); moves.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.shard.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	w.guest = testnet.NewGuest(t, dev, p, k.mtu)
	return w
}

// onShard runs f on the shard's thread.
func (w *world) onShard(f func()) {
	done := make(chan struct{})
	if w.shard.Post(shard.TaskFunc(func() { f(); close(done) })) {
		<-done
	}
}

// counts says how many flows of each kind there are.
type counts struct{ Dials, TCP, Mappings int }

func (w *world) counts() (c counts, conns int) {
	w.onShard(func() {
		c = counts{w.table.Count(flow.Dial), w.table.Count(flow.Conn), w.table.Count(flow.Mapping)}
		conns = w.stack.Conns()
	})
	return c, conns
}

// wantIdle waits until no flow is left but UDP's.
func (w *world) wantIdle() {
	w.t.Helper()
	idle := func() bool {
		c, conns := w.counts()
		return c.Dials == 0 && c.TCP == 0 && conns == 0
	}
	if !testnet.Within(w.patience, idle) {
		c, conns := w.counts()
		w.t.Errorf("left: %+v, %d connections in the stack", c, conns)
	}
}

// dial connects the guest to a port of the host's loopback.
func (w *world) dial(host netip.AddrPort) *testnet.Conn {
	w.t.Helper()
	c, err := w.tryDial(host)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) tryDial(host netip.AddrPort) (*testnet.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.patience)
	defer cancel()
	c, err := w.guest.DialTCP(ctx, 0, w.outside(host))
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(w.patience))
	return c, nil
}

// outside is how the guest calls an address of the host's loopback.
func (w *world) outside(host netip.AddrPort) netip.AddrPort {
	if host.Addr().Is4() {
		return netip.AddrPortFrom(w.plan.Gateway, host.Port())
	}
	return netip.AddrPortFrom(w.plan.Gateway6, host.Port())
}

// connect gives both ends of a new connection.
func (w *world) connect(l *net.TCPListener) (*testnet.Conn, *net.TCPConn) {
	w.t.Helper()
	guest := w.dial(l.Addr().(*net.TCPAddr).AddrPort())
	l.SetDeadline(time.Now().Add(w.patience))
	host, err := l.AcceptTCP()
	if err != nil {
		w.t.Fatal(err)
	}
	host.SetDeadline(time.Now().Add(w.patience))
	w.t.Cleanup(func() { host.Close() })
	return guest, host
}

// listen opens a listener on the host's loopback; tests without one skip.
func listen(t *testing.T, addr string) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Skipf("listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// echo answers connections with what they say, until the listener is closed
// and they end.
func echo(t *testing.T, l *net.TCPListener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				// By read and write: splice would keep its pipes open.
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// pattern is a stream of bytes in which a piece that is lost, doubled or moved
// shows: its period is a prime, and no size of anything.
type pattern struct{ at int }

const patternPeriod = 65521

var patternBytes = sync.OnceValue(func() []byte {
	b := make([]byte, patternPeriod)
	rand.New(rand.NewSource(1)).Read(b)
	return b
})

// next is the longest piece of at most n bytes that lies in one period.
func (p *pattern) next(n int) []byte {
	at := p.at % patternPeriod
	return patternBytes()[at:min(at+n, patternPeriod)]
}

func (p *pattern) Read(b []byte) (int, error) {
	for n := 0; n < len(b); {
		m := copy(b[n:], p.next(len(b)-n))
		n += m
		p.at += m
	}
	return len(b), nil
}

// Write checks that the bytes are the next ones.
func (p *pattern) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		want := p.next(len(b) - n)
		if !bytes.Equal(b[n:n+len(want)], want) {
			return n, fmt.Errorf("bytes %d to %d are not those that were sent", p.at, p.at+len(want))
		}
		n += len(want)
		p.at += len(want)
	}
	return len(b), nil
}
