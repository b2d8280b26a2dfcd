package guest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/guest"
	"epiphyte/internal/policy"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

const patience = 10 * time.Second

// fixture is a guest.Guest over a fake device, served until the test ends.
type fixture struct {
	dev    *testnet.Device // of the first queue
	port   *testnet.Port   // of the first queue
	ports  []*testnet.Port // of all
	guest  *guest.Guest
	cancel context.CancelFunc
	served chan error
	closed bool
}

// start builds a Guest; serve says whether to serve it as well.
func start(t *testing.T, cfg guest.Config, serve bool) *fixture {
	t.Helper()
	return startWorkers(t, cfg, 1, serve)
}

// startWorkers does it with that many queues.
func startWorkers(t *testing.T, cfg guest.Config, workers int, serve bool) *fixture {
	t.Helper()
	var devs []*testnet.Device
	var ports []*testnet.Port
	for range workers {
		dev := testnet.NewDevice(t, testnet.DeviceConfig{})
		devs, ports = append(devs, dev), append(ports, dev.Port())
	}
	for _, dev := range devs[1:] {
		cfg.Queues = append(cfg.Queues, dev)
	}
	if !cfg.Rules.Plan.Prefix.IsValid() {
		cfg.Rules.Plan = addressingtest.New(t)
	}
	cfg.Device = devs[0]
	cfg.Logger = slog.New(slog.DiscardHandler)
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = resolvConf(t)
	}
	g, err := guest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{dev: devs[0], port: ports[0], ports: ports, guest: g, served: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	if serve {
		go func() { f.served <- g.Serve(ctx) }()
	} else {
		f.served <- nil
	}
	t.Cleanup(func() {
		f.cancel()
		<-f.served
		f.close(t)
	})
	return f
}

func (f *fixture) close(t *testing.T) {
	t.Helper()
	if f.closed {
		return
	}
	f.closed = true
	if err := f.guest.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// wait returns what Serve said.
func (f *fixture) wait(t *testing.T, d time.Duration) error {
	t.Helper()
	select {
	case err := <-f.served:
		f.served <- nil // for the cleanup
		return err
	case <-time.After(d):
		t.Fatalf("Serve goes on after %v", d)
		return nil
	}
}

// resolvConf names a resolver that nobody is.
func resolvConf(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every way to build a guest, used or not, leaves no goroutine and no
// descriptor.
func TestNothingIsLeft(t *testing.T) {
	for _, cfg := range []guest.Config{
		{},
		{Rules: policy.Rules{DisableDNS: true}},
		{Rules: policy.Rules{DisableHostLoopback: true}, MTU: 65520},
		{Rules: policy.Rules{Plan: addressingtest.IPv4Only(t)}},
	} {
		for _, serve := range []bool{false, true} {
			t.Run("", func(t *testing.T) {
				testnet.CheckLeaks(t)
				start(t, cfg, serve)
			})
		}
	}
}

// closedDevice has no descriptor any more.
type closedDevice struct{ *testnet.Device }

func (closedDevice) FD() int { return -1 }

// New cleans up after itself when the device is of no use.
func TestNewFails(t *testing.T) {
	testnet.CheckLeaks(t)
	dev := closedDevice{testnet.NewDevice(t, testnet.DeviceConfig{})}
	g, err := guest.New(guest.Config{Device: dev, Rules: policy.Rules{Plan: addressingtest.New(t)}, ResolvConf: resolvConf(t)})
	if err == nil {
		g.Close()
		t.Fatal("a guest over a closed device")
	}
}

// TestB3_DeviceGone: Serve ends within 1 s, says so, and leaves nothing.
func TestB3_DeviceGone(t *testing.T) {
	testnet.CheckLeaks(t)
	f := start(t, guest.Config{}, true)
	f.port.Close()
	if err := f.wait(t, time.Second); !errors.Is(err, stack.ErrDeviceGone) {
		t.Errorf("Serve said %v, want %v", err, stack.ErrDeviceGone)
	}
}

// A device that was gone before Serve is noticed as well.
func TestB3_DeviceGoneBeforeServe(t *testing.T) {
	testnet.CheckLeaks(t)
	f := start(t, guest.Config{}, false)
	f.port.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f.guest.Serve(ctx); !errors.Is(err, stack.ErrDeviceGone) {
		t.Errorf("Serve said %v, want %v", err, stack.ErrDeviceGone)
	}
}

// A context that has ended already ends Serve.
func TestServeWithEndedContext(t *testing.T) {
	testnet.CheckLeaks(t)
	f := start(t, guest.Config{}, false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.guest.Serve(ctx); err != nil {
		t.Errorf("Serve said %v", err)
	}
}

// With IPv6 there is a router advertisement on the wire before anybody has
// asked, and even before Serve; without it there is none.
func TestUnsolicitedRouterAdvertisement(t *testing.T) {
	testnet.CheckLeaks(t)
	p := addressingtest.New(t)
	f := start(t, guest.Config{Rules: policy.Rules{Plan: p}, MTU: 1500}, false)
	frame, err := f.port.Read(time.Now().Add(patience))
	if err != nil {
		t.Fatal(err)
	}
	if dst := [6]byte(frame); dst != [6]byte{0x33, 0x33, 0, 0, 0, 1} {
		t.Errorf("sent to % x, want all nodes", dst)
	}
	ra, err := testnet.Parse(frame)
	if err != nil || ra.Proto != stack.ProtoICMPv6 || ra.Payload[0] != 134 {
		t.Fatalf("the first frame is %+v, %v; want a router advertisement", ra, err)
	}
	if ra.Src != p.GatewayLinkLocal || ra.Dst != netip.IPv6LinkLocalAllNodes() || ra.TTL != 255 {
		t.Errorf("from %v to %v with hop limit %d", ra.Src, ra.Dst, ra.TTL)
	}
	if life := binary.BigEndian.Uint16(ra.Payload[6:]); life == 0 {
		t.Error("no router, by its lifetime")
	}

	f = start(t, guest.Config{Rules: policy.Rules{Plan: addressingtest.IPv4Only(t)}}, false)
	if frame, err := f.port.Read(time.Time{}); err != unix.EAGAIN {
		t.Errorf("without IPv6 the guest was sent % x, %v", frame, err)
	}
}

// TestB6_EndUnderLoad: Serve returns within 200 ms of its context's end, with
// streams in both directions, datagrams and dials under way.
func TestB6_EndUnderLoad(t *testing.T) {
	testnet.CheckLeaks(t)
	p := addressingtest.New(t)
	f := start(t, guest.Config{Rules: policy.Rules{Plan: p}}, true)
	g := testnet.NewGuest(t, f.dev, p, 1500)
	var moved atomic.Int64
	to := load(t, &moved)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 4 {
		c, err := g.DialTCP(ctx, 0, netip.AddrPortFrom(p.Gateway, to.Port()))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{}, 2)
		go func() { io.Copy(struct{ io.Writer }{c}, endless{}); done <- struct{}{} }()
		go func() { io.Copy(io.Discard, struct{ io.Reader }{c}); done <- struct{}{} }()
		defer func() { c.Reset(); c.SetDeadline(time.Now()); <-done; <-done }()
	}
	if !testnet.Within(patience, func() bool { return moved.Load() > 1<<20 }) {
		t.Fatalf("only %d bytes moved", moved.Load())
	}
	for port := range uint16(100) {
		f.port.Write(testnet.UDP(netip.AddrPortFrom(p.Guest.Next(), 1000+port), netip.AddrPortFrom(p.Gateway, to.Port()), 64, nil))
	}
	begin := time.Now()
	f.cancel()
	if err := f.wait(t, patience); err != nil {
		t.Errorf("Serve said %v", err)
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("Serve took %v to end", d)
	}
	begin = time.Now()
	f.close(t)
	if d := time.Since(begin); d > time.Second {
		t.Errorf("Close took %v under load", d)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// load accepts connections, sends without end on each and swallows what comes.
func load(t *testing.T, moved *atomic.Int64) netip.AddrPort {
	t.Helper()
	l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(struct{ io.Writer }{c}, endless{})
			go func() {
				defer c.Close()
				b := make([]byte, 1<<16)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					moved.Add(int64(n))
				}
			}()
		}
	}()
	return addr
}

// TestB8_IdleCostsNothing: a guest at rest makes no turn of its loop.
func TestB8_IdleCostsNothing(t *testing.T) {
	testnet.CheckLeaks(t)
	start(t, guest.Config{}, true)
	runtime.Gosched()
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	<-time.After(500 * time.Millisecond)
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	used := time.Duration(after.Utime.Nano()-before.Utime.Nano()) + time.Duration(after.Stime.Nano()-before.Stime.Nano())
	if used > 50*time.Millisecond {
		t.Errorf("%v of CPU time in half a second of rest", used)
	}
}

// Several guests in one process do not know of one another: the same addresses
// lead each to its own flows.
func TestTwoGuests(t *testing.T) {
	testnet.CheckLeaks(t)
	p := addressingtest.New(t)
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	one, two := start(t, guest.Config{Rules: policy.Rules{Plan: p}}, true), start(t, guest.Config{Rules: policy.Rules{Plan: p}}, true)
	src, dst := netip.AddrPortFrom(p.Guest, 4000), netip.AddrPortFrom(p.Gateway, addr.Port())
	b := make([]byte, 64)
	for name, f := range map[string]*fixture{"one": one, "two": two} {
		if err := f.port.Write(testnet.UDP(src, dst, 64, []byte(name))); err != nil {
			t.Fatal(err)
		}
		n, from, err := host.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != name {
			t.Fatalf("%s: arrived %q, %v", name, b[:n], err)
		}
		if _, err := host.WriteToUDPAddrPort(b[:n], from); err != nil {
			t.Fatal(err)
		}
		for {
			frame, err := f.port.Read(time.Now().Add(patience))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if p, err := testnet.Parse(frame); err == nil && p.Proto == stack.ProtoUDP {
				if string(p.Payload[8:]) != name {
					t.Errorf("%s was answered %q", name, p.Payload[8:])
				}
				break
			}
		}
	}
}
