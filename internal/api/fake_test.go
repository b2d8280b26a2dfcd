package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"epiphyte/portfwd"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(askEnv); path != "" {
		askAsChild(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// fakePorts only remembers rules. Port 81 is always in use, port 82 is denied, and
// port 83 is published when hold is closed.
type fakePorts struct {
	hold chan struct{}

	mu    sync.Mutex
	last  int
	rules []portfwd.Entry
}

func (p *fakePorts) Add(ctx context.Context, r portfwd.Rule) (portfwd.Entry, error) {
	if r.Proto == "" {
		r.Proto = portfwd.TCP
	}
	if err := r.Validate(); err != nil {
		return portfwd.Entry{}, fmt.Errorf("publish %v: %w", r, err)
	}
	if !r.Host.IsValid() {
		r.Host = netip.IPv4Unspecified()
	}
	if !r.Guest.IsValid() && r.Host.Is4() {
		r.Guest = netip.MustParseAddr("10.0.2.100")
	}
	if r.GuestPort == 0 {
		r.GuestPort = r.HostPort
	}
	at := netip.AddrPortFrom(r.Host, r.HostPort)
	switch r.HostPort {
	case 81:
		return portfwd.Entry{}, fmt.Errorf("publish %v: %w", r, &portfwd.BindError{Proto: r.Proto, Addr: at, Errno: unix.EADDRINUSE, Remedy: "another program has the port"})
	case 82:
		return portfwd.Entry{}, fmt.Errorf("publish %v: %w", r, &portfwd.BindError{Proto: r.Proto, Addr: at, Errno: unix.EACCES})
	case 83:
		select {
		case <-p.hold:
		case <-ctx.Done():
			return portfwd.Entry{}, ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	e := portfwd.Entry{ID: p.last, Rule: r}
	p.rules = append(p.rules, e)
	return e, nil
}

func (p *fakePorts) Remove(id int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.rules)
	p.rules = slices.DeleteFunc(p.rules, func(e portfwd.Entry) bool { return e.ID == id })
	if len(p.rules) == n {
		return fmt.Errorf("remove published port %d: %w", id, portfwd.ErrNoRule)
	}
	return nil
}

func (p *fakePorts) List() []portfwd.Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.rules)
}

func (p *fakePorts) count() int { return len(p.List()) }

func testConfig() (Config, *fakePorts) {
	p := &fakePorts{hold: make(chan struct{})}
	return Config{
		Ports: p,
		Flows: func() []Flow {
			return []Flow{{
				Proto: "tcp", State: "open", In: 1 << 40, Out: 2, Age: 90, Idle: 1.5,
				Guest:  netip.MustParseAddrPort("10.0.2.100:40000"),
				Remote: netip.MustParseAddrPort("192.0.2.1:443"),
				Host:   netip.MustParseAddrPort("198.51.100.7:50000"),
			}}
		},
		Stats: func() []Metric {
			return []Metric{
				{Name: "uptime_seconds", Help: "Seconds since the start", Values: []Value{{N: 12}}},
				{Name: "sent_bytes", Help: "Bytes from the guest", Counter: true, Label: "proto", Values: []Value{{"tcp", 1 << 60}, {"udp", 2}}},
			}
		},
		Logger: slog.New(slog.DiscardHandler),
	}, p
}

type listenFunc = func(string, Config) (*Server, error)

// serve runs a server until the end of the test.
func serve(t testing.TB, listen listenFunc, prepare ...func(*Server)) (path string, p *fakePorts, s *Server) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	cfg, p := testConfig()
	s, err := listen(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return path, p, s
}

func connect(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.UnixConn)
}

// ask sends the pieces one by one and reads the reply to its end. It does not shut
// down its side.
func ask(t testing.TB, path string, pieces ...string) string {
	t.Helper()
	c := connect(t, path)
	for _, piece := range pieces {
		if _, err := io.WriteString(c, piece); err != nil {
			t.Fatal(err)
		}
	}
	return rest(t, c)
}

func rest(t testing.TB, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("read reply: %v (after %q)", err, b)
	}
	return string(b)
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
