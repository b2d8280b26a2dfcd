package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"epiphyte/internal/api/apitest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(askEnv); path != "" {
		askAsChild(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func testConfig() (Config, *apitest.Ports) {
	p := &apitest.Ports{Hold: make(chan struct{})}
	return Config{
		Ports:    p,
		Forwards: new(apitest.Forwards),
		Flows: func() []Flow {
			return []Flow{{
				Proto: "tcp", State: "open", Origin: "guest", In: 1 << 40, Out: 2, Age: 90, Idle: 1.5,
				Guest:  netip.MustParseAddrPort("10.0.2.100:40000"),
				Remote: netip.MustParseAddrPort("192.0.2.1:443"),
				Host:   netip.MustParseAddrPort("198.51.100.7:50000"),
			}}
		},
		Stats: func() []Metric {
			return []Metric{
				{Name: "uptime_seconds", Help: "Seconds since the start", Values: []Value{{N: 12}}},
				{Name: "sent_bytes", Help: "Bytes from the guest", Counter: true, Label: "proto", Values: []Value{{Label: "tcp", N: 1 << 60}, {Label: "udp", N: 2}}},
			}
		},
		Capture: func(ctx context.Context, w io.Writer, snaplen int) error {
			if snaplen == 1 {
				return errors.New("too many captures")
			}
			fmt.Fprintf(w, "begun %d", snaplen)
			<-ctx.Done()
			fmt.Fprint(w, " ended")
			return nil
		},
		Logger: slog.New(slog.DiscardHandler),
	}, p
}

type listenFunc = func(context.Context, string, Config) (*Server, error)

// serve runs a server until the end of the test.
func serve(t testing.TB, listen listenFunc, prepare ...func(*Server)) (path string, p *apitest.Ports, s *Server) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	cfg, p := testConfig()
	s, err := listen(t.Context(), path, cfg)
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
		// A server that refuses early may have closed its side already.
		if _, err := io.WriteString(c, piece); err != nil && !errors.Is(err, unix.EPIPE) {
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
