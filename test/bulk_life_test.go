package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// settles returns when a connection that is used has left the device.
func settles(t testing.TB, c net.Conn, carried func() int, before int) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(2 * deadline)); err != nil {
		t.Fatal(err)
	}
	eventually(t, deadline, func() error {
		// As much as a further attempt takes, should there be no quiet moment for the first.
		if err := echoes(c, "\x00"+strings.Repeat("x", 300_000)); err != nil {
			t.Fatal(err)
		}
		if carried() == before {
			return errors.New("the connection stays on the device")
		}
		return nil
	})
}

// wantReset wants a connection to end by a reset.
func wantReset(t testing.TB, c net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(c); !isErrno(err, unix.ECONNRESET) {
		t.Errorf("the end came as %q, %v, want a reset", b, err)
	}
}

// TestBulkPolicyChanges: a policy that denies a connection which has left the device keeps or
// ends it, as it says.
func TestBulkPolicyChanges(t *testing.T) {
	t.Parallel()
	oneQueue(t)
	eachFamily(t, func(t *testing.T, f family) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil { // a plain user makes the socket
			t.Fatal(err)
		}
		socket := filepath.Join(dir, "http")
		server := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		p := underPolicy(t, "allow "+f.server+"\n", "--bulk=always", "--http-socket="+socket)
		replace := func(text string) {
			t.Helper()
			if got := overHTTP(t, socket, "PUT", "/v1/policy", text); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Fatalf("PUT: %s", got)
			}
		}
		c := p.dial(t, "tcp"+f.v, hostPort(f.server, server))
		settles(t, c, func() int { return carriedBy(t, socket) }, 0)
		const other = "allow nothing.example\n"
		replace(other)
		if err := echoes(c, strings.Repeat("x", 100_000)); err != nil {
			t.Errorf("under a policy that keeps it: %v", err)
		}
		replace(other + "flows kill\n")
		wantReset(t, c)
		noRules(t, p.Guest)
	})
}

// TestBulkEndedMeanwhile: connections that a policy ends while they leave the device leave no
// rule behind. lo has gone down since it let one through, so that each waits for an answer that
// does not come.
func TestBulkEndedMeanwhile(t *testing.T) {
	t.Parallel()
	oneQueue(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // a plain user makes the socket
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "http")
	const connections = 16
	server := hostPort(harness.NetIPv4, serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.NetIPv4, "0"), echoTCP))
	allow := "allow " + harness.NetIPv4 + "\n"
	p := underPolicy(t, allow, "--bulk=always", "--http-socket="+socket)
	setLo := func(state string) {
		t.Helper()
		if out, err := p.Run(timeout(t, deadline), needs(t, "ip"), "link", "set", "lo", state); err != nil {
			t.Fatal(err, out)
		}
	}
	for range 5 {
		setLo("up")
		before, c := carriedBy(t, socket), p.dial(t, "tcp4", server)
		eventually(t, deadline, func() error {
			if err := echoes(c, "\x00hello"); err != nil {
				return err
			}
			if carriedBy(t, socket) == before {
				return errors.New("the connection stays on the device")
			}
			return nil
		})
		c.Close()
		noRules(t, p.Guest)
		setLo("down")
		var all []net.Conn
		var wg sync.WaitGroup
		for range connections {
			c := p.dial(t, "tcp4", server)
			all = append(all, c)
			wg.Go(func() {
				for echoes(c, "\x00hello") == nil {
				}
			})
		}
		eventually(t, deadline, func() error {
			if some, err := rulesOf(p.Guest); err != nil || len(some) < connections/2 {
				return fmt.Errorf("there are no rules to leave behind: %q, %w", some, err)
			}
			return nil
		})
		for _, text := range []string{"allow nothing.example\nflows kill\n", allow} {
			if got := overHTTP(t, socket, "PUT", "/v1/policy", text); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Fatalf("PUT: %s", got)
			}
		}
		for _, c := range all { // the reset does not come by lo, either
			c.Close()
		}
		wg.Wait()
	}
	noRules(t, p.Guest)
}

// TestBulkOfPublishedPort: a client that came by the stack path is listed with all that it has
// moved once it has left the device, and lives on when the port is published no longer.
func TestBulkOfPublishedPort(t *testing.T) {
	t.Parallel()
	ours(t, "--bulk")
	oneQueue(t)
	socket := filepath.Join(t.TempDir(), "http")
	w := serve(t, "--bulk=always", "--http-socket="+socket, "--publish-mode=stack", "-p", "18137:8080")
	serveTCP(t, w.NetNS, "tcp4", "0.0.0.0:8080", echoTCP)
	do := func(args ...string) string {
		t.Helper()
		h := startClient(t, append(args, "--http-socket", socket)...)
		if code, _, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil {
			t.Fatalf("%q: %d, %v: %s", args, code, err, h.Stderr)
		}
		return h.Stdout.String()
	}
	flows := func() (all []struct {
		Origin string
		In     uint64 `json:"in_bytes"`
		Out    uint64 `json:"out_bytes"`
	}) {
		t.Helper()
		if err := json.Unmarshal([]byte(do("flows", "--json")), &struct{ Flows any }{&all}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	c := client(t, env.Host, "tcp4", "127.0.0.1:18137")
	settles(t, c, func() int { return carriedBy(t, socket) }, 0)
	if err := echoes(c, strings.Repeat("x", 100_000)); err != nil {
		t.Fatal(err)
	}
	if all := flows(); len(all) != 1 || all[0].Origin != "published" || all[0].In < 100_000 || all[0].Out < 100_000 {
		t.Errorf("flows: %+v", all)
	}
	do("unpublish", "1")
	if err := refusal(t, env.Host, "tcp4", "127.0.0.1:18137"); !isErrno(err, unix.ECONNREFUSED) {
		t.Errorf("a new client: %v", err)
	}
	if err := echoes(c, strings.Repeat("x", 100_000)); err != nil {
		t.Errorf("after unpublish: %v", err)
	}
	c.Close()
	noRules(t, w.Guest)
	if all := flows(); len(all) > 0 {
		t.Errorf("flows after the end: %+v", all)
	}
}

// TestBulkProgramStopped: what is sent meanwhile comes when the program goes on.
func TestBulkProgramStopped(t *testing.T) {
	t.Parallel()
	w, carried := bulkWorld(t)
	eachFamily(t, func(t *testing.T, f family) {
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		c := handOver(t, w, carried, "tcp"+f.v, hostPort(f.server, addr))
		if err := w.helper.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, deadline, func() error { return isStopped(w.helper.PID) })
		data := strings.Repeat("x", 20_000)
		if _, err := c.Write([]byte(data)); err != nil {
			t.Error(err)
		}
		if err := w.helper.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != data {
			t.Errorf("what was sent meanwhile: %v", err)
		}
		if err := echoes(c, data); err != nil {
			t.Errorf("after that: %v", err)
		}
	})
}

// TestBulkProgramEnds: the guest sees a reset and the server an end, and nothing is left in the
// guest.
func TestBulkProgramEnds(t *testing.T) {
	t.Parallel()
	w, carried := bulkWorld(t)
	ended := make(chan struct{})
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.NetIPv4, "0"), func(c *net.TCPConn) {
		io.Copy(io.Discard, c)
		close(ended)
	})
	c := handOver(t, w, carried, "tcp4", hostPort(harness.NetIPv4, addr))
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	if err := w.helper.CloseExitFD(); err != nil {
		t.Fatal(err)
	}
	if code, sig, err := w.helper.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Errorf("exit status %d, signal %v, %v", code, sig, err)
	}
	wantReset(t, c)
	if some, err := rulesOf(w.Guest); len(some) > 0 || err != nil {
		t.Errorf("rules are left: %q, %v", some, err)
	}
	select {
	case <-ended:
	case <-time.After(deadline):
		t.Error("the server sees no end")
	}
}

// TestBulkLimit: connections beyond the limit stay on the device, none gives way, and others
// leave in the place of those that end.
func TestBulkLimit(t *testing.T) {
	t.Parallel()
	ours(t, "--bulk")
	oneQueue(t)
	const (
		files = 300
		most  = (files - 24) / 32 // see carriedShare, and reservedFDs
		all   = 4 * most
	)
	socket := filepath.Join(t.TempDir(), "http")
	w := serveWith(t, harness.HelperConfig{Wrap: []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files)}},
		"--bulk=always", "--http-socket="+socket)
	carried := func() int { return carriedBy(t, socket) }
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.NetIPv4, "0"), echoTCP)
	var conns []net.Conn
	for range all {
		conns = append(conns, w.dial(t, "tcp4", hostPort(harness.NetIPv4, addr)))
	}
	everyOneWorks := func() {
		t.Helper()
		for i, c := range conns {
			if err := echoes(c, strings.Repeat("x", 10_000)); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
	}
	eventually(t, deadline, func() error {
		everyOneWorks()
		if n := carried(); n < most {
			return fmt.Errorf("%d connections have left the device, want %d", n, most)
		}
		return nil
	})
	everyOneWorks()
	if n := carried(); n > most {
		t.Errorf("%d connections have left the device, want %d at most", n, most)
	}
	for _, c := range conns {
		c.Close()
	}
	noRules(t, w.Guest)
	handOver(t, w, carried, "tcp4", hostPort(harness.NetIPv4, addr))
}
