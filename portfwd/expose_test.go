package portfwd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/testnet"
)

func TestParseExposed(t *testing.T) {
	for text, want := range map[string]Exposed{
		"80":        {Proto: TCP, HostPort: 80, GuestPort: 80},
		"80:8080":   {Proto: TCP, HostPort: 80, GuestPort: 8080},
		"80:80/tcp": {Proto: TCP, HostPort: 80, GuestPort: 80},
		"65535:1":   {Proto: TCP, HostPort: 65535, GuestPort: 1},
	} {
		got, err := ParseExposed(text)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
		if again, err := ParseExposed(got.String()); err != nil || again != want {
			t.Errorf("%v is written %q", want, got)
		}
	}
	for text, says := range map[string]string{
		"":                "a port is missing",
		"0":               "is not a port",
		"65536":           "is not a port",
		"-1":              "is not a port",
		"80:":             "a port is missing",
		":80":             "a port is missing",
		"80:81:82":        "is not a port",
		"127.0.0.1:80:80": "is not a port",
		"80-90":           "is not a port",
		"53/udp":          "only TCP",
		"80/":             "only TCP",
	} {
		_, err := ParseExposed(text)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) {
			t.Errorf("%q: %v, want it to say %q", text, err, says)
		}
	}
}

// expose makes a listener as there is one in the guest, which leads to a port of
// the host, and returns its address.
func (w *world) expose(loop netip.Addr, hostPort uint16) netip.AddrPort {
	w.T.Helper()
	at := netip.AddrPortFrom(loop, testnet.FreePort(w.T, TCP, loop))
	if err := w.exposeRule(Exposed{Guest: loop, GuestPort: at.Port(), HostPort: hostPort}); err != nil {
		w.T.Fatal(err)
	}
	return at
}

// serveHost serves a port of the host's loopback.
func serveHost(t testing.TB, loop netip.Addr, handle func(net.Conn)) uint16 {
	t.Helper()
	l, addr := testnet.ListenTCP(t, netip.AddrPortFrom(loop, 0).String())
	acceptAll(t, l, handle)
	return addr.Port()
}

func (w *world) wantNoExposed() {
	w.T.Helper()
	w.eventually("no client of an exposed port left", func() bool { return w.Table.Count(flow.Exposed) == 0 })
}

// Clients of either family reach the host's server, each its own, and are seen
// as the host's loopback; the flow is described.
func TestExposed(t *testing.T) {
	w := newWorld(t, setting{noLoopback: true})
	eachFamily(t, func(t *testing.T, loop netip.Addr) {
		seen := make(chan net.Addr, 1)
		port := serveHost(t, loop4, func(c net.Conn) {
			seen <- c.RemoteAddr()
			echo(c)
		})
		at := w.expose(loop, port)
		a, b := dial(t, at), dial(t, at)
		for range 2 {
			if from := receive(t, seen).(*net.TCPAddr).AddrPort(); from.Addr() != loop4 {
				t.Errorf("the server sees %v", from)
			}
		}
		says(t, a, "one")
		says(t, b, "other")
		w.Do(func() {
			var got *flow.Info
			for _, i := range w.Table.Append(nil) {
				if i.Src == a.LocalAddr().(*net.TCPAddr).AddrPort() {
					got = &i
				}
			}
			if got == nil || got.Remote != at || !got.Host.Addr().IsLoopback() || got.In != 3 || got.Out != 3 {
				t.Errorf("the flow is described as %+v", got)
			}
			if _, joined := w.exposedClients(); joined != 2 {
				t.Errorf("%d clients are counted", joined)
			}
		})
		a.CloseWrite()
		if rest, err := io.ReadAll(a); err != nil || len(rest) > 0 {
			t.Errorf("after the end: %q, %v", rest, err)
		}
		b.SetLinger(0)
		b.Close()
		w.wantNoExposed()
	})
}

// Where servers listen on both loopback addresses, a client gets the one of its family.
func TestExposedKeepsFamily(t *testing.T) {
	w := newWorld(t, setting{noLoopback: true})
	seen := make(chan net.Addr, 1)
	tell := func(c net.Conn) { seen <- c.RemoteAddr() }
	port := serveHost(t, netip.IPv6Loopback(), tell)
	l, _ := testnet.ListenTCP(t, netip.AddrPortFrom(loop4, port).String())
	acceptAll(t, l, tell)
	eachFamily(t, func(t *testing.T, loop netip.Addr) {
		dial(t, w.expose(loop, port))
		if from := receive(t, seen).(*net.TCPAddr).AddrPort(); from.Addr() != loop {
			t.Errorf("the server sees %v", from)
		}
	})
}

// A server that has only IPv6 is found, unless there is no IPv6; where nobody
// listens the client is reset at once.
func TestExposedFallsBackToIPv6(t *testing.T) {
	for _, noIPv6 := range []bool{false, true} {
		w := newWorld(t, setting{noIPv6: noIPv6})
		at := w.expose(loop4, serveHost(t, netip.IPv6Loopback(), echo))
		if noIPv6 {
			if err := refusal(t, at); !isReset(err) {
				t.Errorf("without IPv6: %v", err)
			}
		} else {
			says(t, dial(t, at), "hello")
		}
		begin := time.Now()
		if err := refusal(t, w.expose(loop4, testnet.FreePort(t, TCP, loop4))); !isReset(err) || time.Since(begin) > time.Second {
			t.Errorf("nobody listens: %v after %v", err, time.Since(begin))
		}
	}
}

// A server that does not keep up is a bounded wait.
func TestExposedSilentHost(t *testing.T) {
	clock := new(shardtest.Clock)
	w := newWorld(t, setting{clock: clock})
	c := dial(t, w.expose(loop4, testnet.SilentListener(t).Port()))
	w.eventually("the client waits", func() bool { waiting, _ := w.exposedClients(); return waiting == 1 })
	clock.Advance(dialTimeout)
	w.wantNoExposed()
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("a silent host: %v", err)
	}
}

// Clients of exposed ports are bounded, established ones included; further ones
// wait.
func TestExposedClientsAreBounded(t *testing.T) {
	clock := new(shardtest.Clock)
	w := newWorld(t, setting{clock: clock, limits: flow.Limits{Exposed: 2}})
	at := w.expose(loop4, serveHost(t, loop4, echo))
	a, b := dial(t, at), dial(t, at)
	says(t, a, "a")
	says(t, b, "b")
	third := dial(t, at)
	w.eventually("the listener rests", func() bool { return len(w.paused) == 1 })
	a.Close()
	w.eventually("there is room", func() bool { _, joined := w.exposedClients(); return joined == 1 })
	clock.Advance(acceptPause)
	w.eventually("the client is taken", func() bool { _, joined := w.exposedClients(); return joined == 2 })
	says(t, third, "c")
}

// B19: out of descriptors, clients are reset or wait, and the shard rests.
func TestB19_ExposedAtTheDescriptorLimit(t *testing.T) {
	clock := new(shardtest.Clock)
	w := newWorld(t, setting{clock: clock, idle: true})
	at := w.expose(loop4, serveHost(t, loop4, echo))
	w.Turn(0)
	dial(t, at)
	restore := fillDescriptors(t)
	w.wantRest()
	if n := w.Table.Count(flow.Exposed); len(w.paused) != 1 || n != 0 {
		t.Errorf("%d listeners paused, %d clients", len(w.paused), n)
	}
	restore()
	clock.Advance(acceptPause)
	w.Turn(0)
	w.Turn(0)
	if n := w.Table.Count(flow.Exposed); n != 1 || len(w.paused) != 0 {
		t.Errorf("with descriptors again: %d clients, %d listeners paused", n, len(w.paused))
	}
}

// With one descriptor left a client is accepted and cannot be carried: it is
// told so. Those behind it wait.
func TestB19_ExposedWithoutASocket(t *testing.T) {
	clock := new(shardtest.Clock)
	w := newWorld(t, setting{clock: clock, idle: true})
	at := w.expose(loop4, serveHost(t, loop4, echo))
	w.Turn(0)
	c, next := dial(t, at), dial(t, at)
	spare, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	restore := fillDescriptors(t)
	unix.Close(spare)
	w.Turn(0)
	restore()
	if _, err := c.Read(make([]byte, 1)); !isReset(err) || len(w.paused) != 1 {
		t.Errorf("the client saw %v, %d listeners are paused", err, len(w.paused))
	}
	clock.Advance(acceptPause)
	w.Turn(0)
	w.Turn(0)
	if _, joined := w.exposedClients(); joined != 1 {
		next.SetDeadline(time.Now().Add(time.Second))
		_, err := next.Read(make([]byte, 1))
		t.Errorf("the next client is not taken: %v", err)
	}
}

// A listener that is ended from outside, as the guest's root can end sockets of
// its namespace, costs no processor time.
func TestListenerIsDestroyed(t *testing.T) {
	for _, paused := range []bool{false, true} {
		w := newWorld(t, setting{clock: new(shardtest.Clock), idle: true})
		w.expose(loop4, 1)
		w.Turn(0)
		p := w.inForce()[0].sockets[0].(*exposedPort)
		if paused {
			p.pause()
		}
		if err := unix.Shutdown(p.fd, unix.SHUT_RD); err != nil {
			t.Fatal(err)
		}
		w.wantRest()
		if p.fd >= 0 {
			t.Error("it is still open")
		}
	}
}

// Close leaves no descriptor, whatever is under way, and takes nothing more.
func TestExposedClose(t *testing.T) {
	before := 0
	w := newWorld(t, setting{})
	before = testnet.Descriptors(t)
	port := serveHost(t, loop4, echo)
	c := dial(t, w.expose(loop4, port))
	says(t, c, "hello")
	w.Stop()
	w.Manager.Close()
	w.EndFlows()
	c.Close()
	if err := w.exposeRule(Exposed{Guest: loop4, GuestPort: testnet.FreePort(t, TCP, loop4), HostPort: port}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("exposed after Close: %v", err)
	}
	if !testnet.Within(patience, func() bool { return testnet.Descriptors(t) <= before+1 }) { // serveHost's
		t.Errorf("%d descriptors left", testnet.Descriptors(t)-before)
	}
}

// FuzzParseExposed: what is read has both ports, and is read again from what it prints.
func FuzzParseExposed(f *testing.F) {
	for _, s := range []string{"5432", "80:8080", "80/tcp", "80/udp", "0", ":80", "80:", "080", "1:2:3", "+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseExposed(s)
		if err != nil {
			return
		}
		if again, err := ParseExposed(e.String()); err != nil || again != e || e.HostPort == 0 || e.GuestPort == 0 {
			t.Errorf("%q is %+v, and then %+v: %v", s, e, again, err)
		}
	})
}
