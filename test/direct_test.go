package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// agentOf finds the process that hands out sockets of the guest's namespace.
func agentOf(t testing.TB, h *harness.Helper) int {
	t.Helper()
	pid := must(h.Agent())(t)
	if pid == 0 {
		t.Fatal("the helper has no agent")
	}
	return pid
}

// received is how many bytes have come to the guest by its device.
func received(t testing.TB, w *world) int64 { return receivedBy(t, w.Guest, tapName) }

// receivedBy is how many have come by one of several.
func receivedBy(t testing.TB, g *harness.Guest, device string) (n int64) {
	t.Helper()
	if err := g.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(b), device+":")
		_, err = fmt.Sscan(rest, &n)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDirectPathTakesNoDevice: what a client sends to a published port reaches
// the guest's server past the TAP, from wherever the client is, unless the
// stack path is asked for. What comes by that may not leave the device, where it is looked for.
func TestDirectPathTakesNoDevice(t *testing.T) {
	ours(t, "--publish-mode")
	for mode, past := range map[string]bool{"auto": true, "direct": true, "stack": false} {
		t.Run(mode, func(t *testing.T) {
			w := serve(t, append(onDevice(), "--publish-mode="+mode, "-p", "18051:8080", "-p", "[::]:18051:8080")...)
			eachFamily(t, func(t *testing.T, f family) {
				serveTCP(t, w.NetNS, "tcp"+f.v, map[string]string{"4": "0.0.0.0:8080", "6": "[::]:8080"}[f.v], echoTCP)
				host := map[string]string{"4": harness.HostIPv4, "6": harness.HostIPv6}[f.v]
				for _, o := range []struct {
					ns *harness.NetNS
					to string
				}{{env.Host, f.loop}, {env.Host, host}, {env.Net.Net, host}} {
					before := received(t, w)
					c := must(o.ns.Dial(timeout(t, deadline), "tcp"+f.v, net.JoinHostPort(o.to, "18051")))(t)
					if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
						t.Fatal(err)
					}
					if err := echoes(c, strings.Repeat("x", 50_000)); err != nil {
						t.Error(err)
					}
					c.Close()
					if n := received(t, w) - before; (n < 10_000) != past {
						t.Errorf("to %s: %d bytes came by the device", o.to, n)
					}
				}
			})
		})
	}
}

// echoes sends text and wants it back.
func echoes(c net.Conn, text string) error {
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	got := make([]byte, len(text))
	for n := 0; n < len(got); {
		m, err := c.Read(got[n:])
		if err != nil {
			return err
		}
		n += m
	}
	if string(got) != text {
		return errors.New("other bytes came back")
	}
	return nil
}

// TestDirectPathFallsBack: without the agent clients are carried in through the
// TAP; those that are in already do not notice.
func TestDirectPathFallsBack(t *testing.T) {
	ours(t, "--publish-mode")
	w := serve(t, "-p", "18052:8080")
	serveTCP(t, w.NetNS, "tcp4", "0.0.0.0:8080", echoTCP)
	dial := func() net.Conn {
		c := must(env.Host.Dial(timeout(t, deadline), "tcp4", "127.0.0.1:18052"))(t)
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := dial()
	if err := echoes(old, "before"); err != nil {
		t.Fatal(err)
	}
	agent := agentOf(t, w.helper)
	if err := unix.Kill(agent, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 100 { // more than there are sockets in stock
		if err := echoes(dial(), "stopped"); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Kill(agent, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := echoes(dial(), "killed"); err != nil {
			t.Fatal(err)
		}
	}
	if err := echoes(old, "after"); err != nil {
		t.Error(err)
	}
	eventually(t, deadline, func() error {
		if kids := w.helper.Descendants(); len(kids) > 0 {
			return fmt.Errorf("processes: %q", kids)
		}
		if said := w.helper.Stderr.String(); !strings.Contains(said, "published ports and bulk go by the TAP only") {
			return fmt.Errorf("said %q", said)
		}
		return nil
	})
}

// TestDirectPathHasNotTheLastWord: a server that is there only for what comes
// by the device, as behind a guest's own address translation, is reached.
func TestDirectPathHasNotTheLastWord(t *testing.T) {
	ours(t, "--publish-mode")
	w := serve(t, "-p", "18053:8080")
	fd := must(w.Socket(unix.AF_INET, unix.SOCK_STREAM, 0))(t)
	defer unix.Close(fd)
	if err := errors.Join(unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, tapName),
		unix.Bind(fd, sockaddr("0.0.0.0", 8080)), unix.Listen(fd, 100)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c := must(env.Host.Dial(timeout(t, deadline), "tcp4", "127.0.0.1:18053"))(t)
		defer c.Close()
		var server int
		eventually(t, deadline, func() (err error) {
			server, _, err = unix.Accept(fd)
			return err
		})
		defer unix.Close(server)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		eventually(t, deadline, func() error {
			n, err := unix.Read(server, b)
			if err == nil && string(b[:n]) != "hello" {
				t.Errorf("%q arrived", b[:n])
			}
			return err
		})
	}
}
