package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// env is set once, before any test runs.
var env *harness.Env

func TestMain(m *testing.M) {
	if spec := os.Getenv(envGenerator); spec != "" {
		fmt.Fprintln(os.Stderr, generate(spec))
		os.Exit(1)
	}
	// Only ceilings are measured here, so the helper may be anything that can be copied.
	if os.Getenv(harness.EnvBinary) == "" {
		os.Setenv(harness.EnvBinary, "/proc/self/exe")
	}
	os.Exit(harness.Run(func(e *harness.Env) int {
		env = e
		code := m.Run()
		if err := e.Leaks(); err != nil {
			fmt.Fprintf(os.Stderr, "left behind: %v\n", err)
			return max(code, 1)
		}
		return code
	}))
}

// TestEveryLoadRuns by the kernel alone, where nothing may fail or be lost: a
// generator that does not work would be taken for a helper that does not.
func TestEveryLoadRuns(t *testing.T) {
	for _, name := range []string{"tcp-out-1-65520", "tcp-in-4-1500", "rtt-tcp", "rtt-udp", "rtt-tcp-pinned", "connect-16", "udp-flood-1400", "udp-gso-1200", "udp-in-1400", "udp-in-gso-1200", "published-udp-up-1400", "published-udp-down-1400", "dns-one", "dns-fresh", "published-tcp-up-1-65520", "neighbour-tcp-4-65520", "neighbour-rtt-udp", "neighbour-connect-16", "neighbour-udp-1400", "rtt-go", "http-go", "published-connect-go-16", "pinned-rtt-go", "beside-connect-go-1"} {
		for _, kind := range []string{kindVeth, kindLoopback, kindBridge} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				rows, err := selectRows(options{rows: name})
				if err != nil {
					t.Fatal(err)
				}
				p := peer{Label: kind, Kind: kind}
				if !p.takes(rows[0]) {
					return // it has no such row
				}
				s, err := newScene(env, p, rows[0].mtu)
				if err != nil {
					t.Fatal(err)
				}
				defer s.close()
				if err := s.arrange(rows[0]); err != nil {
					t.Fatal(err)
				}
				window := 100 * time.Millisecond
				v, err := rows[0].run(t.Context(), s, window)
				if err != nil { // a busy machine may let nothing happen in so short a time
					window = 3 * time.Second
					v, err = rows[0].run(t.Context(), s, window)
				}
				if err != nil {
					t.Fatal(err)
				}
				errors := 0.0
				if strings.HasSuffix(name, "rtt-udp") || rows[0].dns {
					// A busy machine may lose datagrams, and the client says so.
					errors = 2 + v["per_s"]*window.Seconds()/20
				}
				for _, m := range rows[0].metrics {
					if !m.lower && v[m.key] <= 0 || v["errors"] > errors {
						t.Errorf("%s is %v %s, %v errors", m.key, v[m.key], m.unit, v["errors"])
					}
				}
			})
		}
	}
}

// TestProgramEndsWithItsChildren, and is charged with those that have ended before.
func TestProgramEndsWithItsChildren(t *testing.T) {
	h, err := startProgram(env.Host, "sh", "-c", `sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; sleep 1000 & wait`)
	if err != nil {
		t.Fatal(err)
	}
	defer h.kill()
	const enough = 50 * time.Millisecond
	if err := harness.Eventually(defaultPatience, func() error {
		own, ownErr := h.cpu()
		ever, err := h.cpuWithEnded()
		if ownErr != nil || err != nil || own >= enough || ever < enough {
			return fmt.Errorf("living ones have used %v, %v, all %v, %v", own, ownErr, ever, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	tree := h.tree()
	h.kill()
	if len(tree) != 2 || unix.Kill(tree[1], 0) != unix.ESRCH {
		t.Errorf("its child of %v lives", tree)
	}
}

// TestClientThatCannotConnectIsReported with the error of the system call.
func TestClientThatCannotConnectIsReported(t *testing.T) {
	s, err := newScene(env, peer{Kind: kindLoopback}, bigMTU)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.client = s.guest.NetNS // its lo is down
	_, err = s.newTraffic(t.Context(), load{Kind: loadSend, Threads: 1, Size: chunk, ready: 1})
	if want := "client: connect: network is unreachable"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
