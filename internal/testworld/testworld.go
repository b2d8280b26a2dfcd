// Package testworld assembles what tests of the forwarder and of published
// ports stand on: a shard, a table of flows, a relay and a stack over a fake
// device, with a guest's netstack behind it if a test wants one.
//
// # Theory of operation
//
// New makes all that lies below a forwarder, and has the test make the
// forwarder, which the stack needs as its handler. The test then drives the
// shard turn by turn, or has Start serve it; it writes the guest's frames by
// itself, or has AttachGuest put a testnet.Guest there.
//
// Invariants: everything ends with the test, in the opposite order of its
// making, and a test that leaves goroutines or descriptors fails.
//
// Timers: none but the shard's.
//
// What it does not do: it knows no forwarder and no manager of ports, so that
// their own tests can use it. The assembly that the program uses is
// internal/guest.
package testworld

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

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

// Config of a World. The zero value is a device of bare frames with an MTU of
// 1500, the default plan and rules, and the kernel's clock.
type Config struct {
	Device testnet.DeviceConfig
	MTU    int
	Plan   addressing.Plan
	Rules  policy.Rules // the Plan is filled in
	Limits flow.Limits
	Clock  shard.Clock
}

// World is a stack and what belongs to it, below a forwarder.
type World struct {
	T      testing.TB
	Plan   addressing.Plan
	Policy *policy.Rules
	Logger *slog.Logger
	Shard  *shard.Shard
	Table  *flow.Table
	Relay  *relay.Relay
	Batch  *sockio.Batch
	Device *testnet.Device
	Port   *testnet.Port // the guest's end of Device
	Stack  *stack.Stack
	Guest  *testnet.Guest // nil before AttachGuest
	// Stop ends what Start began; it may be called again.
	Stop func()

	mtu int
}

// New makes a world; handler makes its forwarder, without a stack as yet.
func New(t testing.TB, cfg Config, handler func(*World) stack.Handler) *World {
	t.Helper()
	testnet.CheckLeaks(t)
	w := &World{
		T: t, Plan: cfg.Plan, Policy: &cfg.Rules, Logger: slog.New(slog.DiscardHandler),
		Batch: new(sockio.Batch), Device: testnet.NewDevice(t, cfg.Device), Stop: func() {}, mtu: cfg.MTU,
	}
	w.Port = w.Device.Port()
	if !w.Plan.Prefix.IsValid() {
		w.Plan = addressingtest.New(t)
	}
	if w.mtu == 0 {
		w.mtu = 1500
	}
	w.Policy.Plan = w.Plan
	var err error
	if w.Shard, err = shard.New(shard.Config{Clock: cfg.Clock}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Shard.Close() })
	w.Table = flow.New(w.Shard, cfg.Limits)
	w.Relay = relay.New(relay.Config{Shard: w.Shard, Table: w.Table})
	w.Stack, err = stack.New(stack.Config{
		Device: w.Device, Shard: w.Shard, Plan: w.Plan, Handler: handler(w), MTU: w.mtu, Logger: w.Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Stack.Close() })
	t.Cleanup(w.EndFlows)
	return w
}

// EndFlows ends every flow.
func (w *World) EndFlows() {
	w.Table.Close()
	w.Relay.Close()
}

// Start serves the shard until Stop, or until the test ends.
func (w *World) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.Shard.Serve(ctx) }()
	w.Stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			w.T.Errorf("serve: %v", err)
		}
	})
	w.T.Cleanup(func() { w.Stop() })
}

// AttachGuest puts a netstack at the guest's end.
func (w *World) AttachGuest() {
	w.T.Helper()
	w.Guest = testnet.NewGuest(w.T, w.Device, w.Plan, w.mtu)
}

// Turn is one turn of a shard that nobody serves, which may sleep for wait.
func (w *World) Turn(wait time.Duration) {
	w.T.Helper()
	if err := w.Shard.Turn(wait); err != nil {
		w.T.Fatal(err)
	}
}

// Do runs f on the thread of a shard that is served.
func (w *World) Do(f func()) {
	w.T.Helper()
	done := make(chan struct{})
	if !w.Shard.Post(shard.TaskFunc(func() { f(); close(done) })) {
		w.T.Fatal("the shard is closed")
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		w.T.Fatal("the shard does not run")
	}
}
