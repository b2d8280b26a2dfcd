package forwarder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"epiphyte/internal/testnet"
	"epiphyte/internal/testworld"
)

// patience bounds every wait that ought to end by itself.
const patience = 10 * time.Second

// lossyPatience: each segment lost again has TCP wait twice as long, and the
// waits stay long until a segment is acknowledged at the first attempt.
const lossyPatience = 12 * patience

// world is a whole way out: a guest's netstack, a device, the stack and the
// forwarder on a serving shard, and the host's loopback at the end.
type world struct {
	*testworld.World
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
	w := &world{patience: patience}
	cfg := testworld.Config{Device: testnet.DeviceConfig{Offload: k.offload}, MTU: k.mtu}
	if k.lossy != 0 {
		cfg.Device.Impairment = testnet.Impairment{Seed: k.lossy, Loss: 1. / 60, Duplicate: 1. / 60, Reorder: 1. / 60}
		w.patience = lossyPatience
	}
	w.World, _ = assemble(t, with, cfg)
	w.Start()
	w.AttachGuest()
	return w
}

func (w *world) counts() (c counts, conns int) {
	w.Do(func() { c, conns = countsOf(w.Table), w.Stack.Conns() })
	return c, conns
}

// wantIdle waits until no flow is left but UDP's.
func (w *world) wantIdle() {
	w.T.Helper()
	idle := func() bool {
		c, conns := w.counts()
		return c.Dials == 0 && c.TCP == 0 && conns == 0
	}
	if !testnet.Within(w.patience, idle) {
		c, conns := w.counts()
		w.T.Errorf("left: %+v, %d connections in the stack", c, conns)
	}
}

// dial connects the guest to a port of the host's loopback.
func (w *world) dial(host netip.AddrPort) *testnet.Conn {
	w.T.Helper()
	c, err := w.tryDial(host)
	if err != nil {
		w.T.Fatal(err)
	}
	return c
}

func (w *world) tryDial(host netip.AddrPort) (*testnet.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.patience)
	defer cancel()
	c, err := w.Guest.DialTCP(ctx, 0, w.outside(host))
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(w.patience))
	return c, nil
}

// outside is how the guest calls an address of the host's loopback.
func (w *world) outside(host netip.AddrPort) netip.AddrPort {
	if host.Addr().Is4() {
		return netip.AddrPortFrom(w.Plan.Gateway, host.Port())
	}
	return netip.AddrPortFrom(w.Plan.Gateway6, host.Port())
}

// connect gives both ends of a new connection.
func (w *world) connect(l *net.TCPListener) (*testnet.Conn, *net.TCPConn) {
	w.T.Helper()
	guest := w.dial(l.Addr().(*net.TCPAddr).AddrPort())
	l.SetDeadline(time.Now().Add(w.patience))
	host, err := l.AcceptTCP()
	if err != nil {
		w.T.Fatal(err)
	}
	host.SetDeadline(time.Now().Add(w.patience))
	w.T.Cleanup(func() { host.Close() })
	return guest, host
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
