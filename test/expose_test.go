package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// hostService serves a port of the host's loopback and gives the port.
func hostService(t testing.TB, f family, handle func(*net.TCPConn)) string {
	t.Helper()
	return port(serveTCP(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "0"), handle))
}

// tellWho says who the client is.
func tellWho(c *net.TCPConn) { _, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String()) }

// TestB40_ExposedPortAlone: with host loopback disabled the guest reaches what is
// exposed, by its own loopback, and nothing else there.
func TestB40_ExposedPortAlone(t *testing.T) {
	ours(t, "--expose-host")
	v4, v6 := families()[0], families()[1]
	service, only6, hidden := hostService(t, v4, tellWho), hostService(t, v6, tellWho), hostService(t, v4, tellWho)
	w := serve(t, "--disable-host-loopback", "--expose-host="+service, "--expose-host", service+":80", "--expose-host", only6+":81")
	eachFamily(t, func(t *testing.T, f family) {
		for guestPort, seen := range map[string]string{service: v4.loop, "80": v4.loop, "81": v6.loop} {
			c := w.dial(t, "tcp"+f.v, net.JoinHostPort(f.loop, guestPort))
			if who, err := io.ReadAll(c); err != nil || string(who) != seen {
				t.Errorf("by %s the server sees %q, %v, want %s", c.RemoteAddr(), who, err, seen)
			}
		}
		for _, c := range []struct {
			to   string
			errs []error
		}{
			{net.JoinHostPort(f.loop, hidden), []error{unix.ECONNREFUSED}},
			{net.JoinHostPort(f.gateway, service), []error{unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.ECONNREFUSED}},
			{net.JoinHostPort(f.gateway, "80"), []error{unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.ECONNREFUSED}},
			{net.JoinHostPort(w.waitAddress(t, f.af).String(), service), []error{unix.ECONNREFUSED}},
		} {
			conn, err := w.Dial(timeout(t, deadline), "tcp"+f.v, c.to)
			if err == nil {
				conn.Close()
			}
			known := false
			for _, e := range c.errs {
				known = known || errors.Is(err, e)
			}
			if !known {
				t.Errorf("to %s: %v", c.to, err)
			}
		}
		// The exposed port is the guest's: outside of it there is none.
		if err := refusal(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "81")); !isErrno(err, unix.ECONNREFUSED) {
			t.Errorf("on the host: %v", err)
		}
	})
}

// TestB34_ExposedNobodyListens: the guest's client is reset at once, and a server
// that appears is reached.
func TestB34_ExposedNobodyListens(t *testing.T) {
	ours(t, "--expose-host")
	const hostPort = "18071"
	w := serve(t, "--expose-host", hostPort)
	eachFamily(t, func(t *testing.T, f family) {
		var took []time.Duration
		for range 9 {
			begin := time.Now()
			if err := refusal(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.loop, hostPort)); !isErrno(err, unix.ECONNRESET) {
				t.Errorf("nobody listens, and the client saw %v", err)
			}
			took = append(took, time.Since(begin))
		}
		if median(took) > 2*time.Second {
			t.Errorf("reset after %v", took)
		}
		serveTCP(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, hostPort), echoTCP)
		if err := says(w.dial(t, "tcp"+f.v, net.JoinHostPort(f.loop, hostPort)), "hello"); err != nil {
			t.Error(err)
		}
	})
}

// TestExposedTransfers: bytes arrive, both ways at once; each end of stream is
// carried by itself (B11), and so is a reset (B12); clients do not mix.
func TestExposedTransfers(t *testing.T) {
	ours(t, "--expose-host")
	v4 := families()[0]
	whole := make(chan error, 1)
	data := random(71, 10<<20)
	slow := hostService(t, v4, func(c *net.TCPConn) { // answers after the end of the question
		got, err := io.ReadAll(c)
		if err == nil && !bytes.Equal(got, data) {
			err = fmt.Errorf("other bytes, %d of %d", len(got), len(data))
		}
		if err == nil {
			_, err = c.Write(data)
		}
		whole <- err
	})
	echo := hostService(t, v4, echoTCP)
	resets := hostService(t, v4, func(c *net.TCPConn) {
		_ = c.SetLinger(0) // and closed by serveTCP
		_, _ = c.Read(make([]byte, 1))
	})
	heard := make(chan error, 1)
	hears := hostService(t, v4, func(c *net.TCPConn) {
		_, err := io.WriteString(c, "x")
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		heard <- err
	})
	w := serve(t, "--expose-host", slow+":8071", "--expose-host", echo+":8072", "--expose-host", resets+":8073", "--expose-host", hears+":8074")
	before := w.usage(t)
	eachFamily(t, func(t *testing.T, f family) {
		dial := func(port string) *net.TCPConn {
			return w.dial(t, "tcp"+f.v, net.JoinHostPort(f.loop, port)).(*net.TCPConn)
		}
		c := dial("8071")
		if err := writeChunks(c, data, 1<<20); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d of %d bytes came back after the end, or others, %v", len(got), len(data), err)
		}
		if err := <-whole; err != nil {
			t.Error(err)
		}
		a, b := dial("8072"), dial("8072")
		for i := range 20 {
			if err := errors.Join(says(a, fmt.Sprint("a", i)), says(b, fmt.Sprint("b", i))); err != nil {
				t.Fatal(err)
			}
		}
		c = dial("8073")
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err := c.Read(make([]byte, 1))
		if took := time.Since(begin); !isErrno(err, unix.ECONNRESET) || late(t, took, time.Second) {
			t.Errorf("the host resets, and the client saw %v after %v", err, took)
		}
		c = dial("8074")
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetLinger(0)
		c.Close()
		if err := <-heard; !isErrno(err, unix.ECONNRESET) {
			t.Errorf("the client resets, and the server saw %v", err)
		}
		a.Close()
		b.Close()
	})
	w.backTo(t, before, 32<<20)
}

// TestB16_ExposedConnections: thousands in a row and hundreds at once succeed,
// and nothing is left of them.
func TestB16_ExposedConnections(t *testing.T) {
	t.Parallel()
	ours(t, "--expose-host")
	f := families()[0]
	w := serve(t, "--expose-host", hostService(t, f, echoTCP)+":8075")
	before := w.usage(t)
	to := net.JoinHostPort(f.loop, "8075")
	once := func() error {
		c, err := w.Dial(timeout(t, deadline), "tcp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		return errors.Join(c.SetDeadline(time.Now().Add(deadline)), says(c, "hello"))
	}
	for i := range 3000 {
		if err := once(); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	var all []net.Conn
	for range 1000 {
		all = append(all, w.dial(t, "tcp", to))
	}
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(func() {
			if err := says(c, "all at once"); err != nil {
				t.Error(err)
			}
			c.Close()
		})
	}
	wg.Wait()
	w.backTo(t, before, 32<<20)
}

// TestB5_ExposedAgain: stopped in every way, it gives the guest's ports back, and
// the next start has them.
func TestB5_ExposedAgain(t *testing.T) {
	ours(t, "--expose-host")
	f := families()[0]
	service := hostService(t, f, echoTCP)
	g := newGuest(t)
	for round := range 12 {
		if !t.Run("", func(t *testing.T) {
			h := attach(t, g, harness.HelperConfig{}, "-6", "--expose-host", service+":8076")
			if err := says(client(t, g.NetNS, "tcp", "127.0.0.1:8076"), "hello"); err != nil {
				t.Fatal(err)
			}
			stop(t, h, round)
		}) {
			break
		}
	}
	for _, addr := range []string{"127.0.0.1:8076", "[::1]:8076"} {
		l, err := g.Listen("tcp", addr)
		if err != nil {
			t.Errorf("the port is still taken: %v", err)
			continue
		}
		l.Close()
	}
}

// TestB36_ExposedPortIsBusy: one line that names the guest's port, and nothing is
// left, neither in the guest nor on the host.
func TestB36_ExposedPortIsBusy(t *testing.T) {
	ours(t, "--expose-host")
	g := newGuest(t)
	// It brings lo up, for what follows. An agent would be a process of its own.
	h := attach(t, g, harness.HelperConfig{}, append(onDevice(), "--expose-host", "22:8077")...)
	begin := time.Now()
	second := must(env.Start(timeout(t, deadline), harness.HelperConfig{
		Args:   []string{"-c", "-r", harness.ReadyFD, "-p", "18077", "--expose-host", "22:8078", "--expose-host", "22:8077", fmt.Sprint(g.PID), "tap1"},
		NoWait: true,
	}))(t)
	defer second.Kill()
	seen := watchLinks(g, second, 1)
	code, sig, err := second.Exit(timeout(t, deadline))
	took := time.Since(begin)
	said := strings.TrimSpace(second.Stderr.String())
	if err != nil || code != 1 || late(t, took, 3*time.Second) {
		t.Errorf("exit status %d, signal %v, %v after %v", code, sig, err, took)
	}
	if strings.Contains(said, "\n") || !strings.Contains(said, "listen on tcp 127.0.0.1:8077: address already in use (another program of the guest has the port") {
		t.Errorf("it said %q", said)
	}
	if links := <-seen; links != "" {
		t.Errorf("while it failed there were %s", links)
	}
	if err := refusal(t, g.NetNS, "tcp", "127.0.0.1:8078"); !isErrno(err, unix.ECONNREFUSED) {
		t.Errorf("a port before the busy one: %v", err)
	}
	if err := refusal(t, env.Host, "tcp", "127.0.0.1:18077"); !isErrno(err, unix.ECONNREFUSED) {
		t.Errorf("a published port: %v", err)
	}
	if kids := h.Descendants(); len(kids) > 0 {
		t.Errorf("processes: %q", kids)
	}
}

// TestB42_ExposedListenerDestroyed: the guest's root ends the listening socket,
// which costs it that port, and us neither time nor more than a line.
func TestB42_ExposedListenerDestroyed(t *testing.T) {
	ours(t, "--expose-host")
	needs(t, "ss")
	service := hostService(t, families()[0], echoTCP)
	w := serve(t, "--expose-host", service+":8079", "--expose-host", service+":8080")
	out, err := w.Run(timeout(t, deadline), "ss", "-K", "-ltn", "sport = :8079")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(out, ":8079") { // ss passes over sockets of which it is told EOPNOTSUPP
		t.Skip("this kernel destroys no sockets (CONFIG_INET_DIAG_DESTROY)")
	}
	eventually(t, deadline, func() error {
		if n := strings.Count(w.helper.Stderr.String(), "a listening socket was destroyed"); n != 2 {
			return fmt.Errorf("%d of two listeners are missed: %s", n, w.helper.Stderr)
		}
		return nil
	})
	before := w.usage(t)
	eachFamily(t, func(t *testing.T, f family) {
		if err := refusal(t, w.NetNS, "tcp", net.JoinHostPort(f.loop, "8079")); !isErrno(err, unix.ECONNREFUSED) {
			t.Errorf("the port that was destroyed: %v", err)
		}
		c := w.dial(t, "tcp", net.JoinHostPort(f.loop, "8080"))
		if err := says(c, "hello"); err != nil {
			t.Errorf("the other port: %v", err)
		}
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes came of nowhere", n)
		}
	})
	if used := w.usage(t).CPU - before.CPU; used > 300*time.Millisecond {
		t.Errorf("%v of processor time in 600 ms of rest", used)
	}
}

// TestRunExposes: a command reaches a service of the host's loopback by its own.
func TestRunExposes(t *testing.T) {
	service := hostService(t, families()[0], func(c *net.TCPConn) { _, _ = io.WriteString(c, "from the host\n") })
	run := func(addr string) (*harness.Helper, int) {
		h := run(t, harness.HelperConfig{}, "--disable-host-loopback", "--expose-host", service+":5432", "--",
			"bash", "-c", "exec 3<>/dev/tcp/"+addr+"/5432 && cat <&3")
		code, _, err := h.Exit(timeout(t, deadline))
		if err != nil {
			t.Fatal(err)
		}
		return h, code
	}
	for _, addr := range []string{"127.0.0.1", "::1", "localhost"} {
		if h, code := run(addr); code != 0 || h.Stdout.String() != "from the host\n" {
			t.Errorf("by %s: exit status %d, %q, %s", addr, code, h.Stdout, h.Stderr)
		}
	}
	if h, code := run("10.0.2.2"); code == 0 {
		t.Errorf("by the gateway: %q", h.Stdout)
	}
}
