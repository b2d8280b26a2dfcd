package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// TestLogThatCannotBeWritten: whatever becomes of standard error, the network goes on,
// also past an event that is logged, which the end of the agent is.
func TestLogThatCannotBeWritten(t *testing.T) {
	ours(t, "agent")
	deaf, unread := must(pipe(t))(t), must(pipe(t))(t)
	deaf.r.Close()
	fill(t, unread.w)
	for i, c := range []struct {
		name, redirect string
		files          []*os.File
	}{
		{"full disk", "2>/dev/full", nil},
		{"closed", "2>&-", nil},
		{"reader is gone", "2>&5", []*os.File{deaf.w}},
		{"reader does not read", "2>&5", []*os.File{unread.w}},
	} {
		t.Run(c.name, func(t *testing.T) {
			port := fmt.Sprint(18070 + i)
			w := serveWith(t, harness.HelperConfig{Files: c.files, Wrap: []string{"sh", "-c", `exec "$0" "$@" ` + c.redirect}},
				"-p", "127.0.0.1:"+port+":8080")
			serveTCP(t, w.NetNS, "tcp4", "0.0.0.0:8080", echoTCP)
			if err := unix.Kill(agentOf(t, w.helper), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, deadline, func() error {
				if kids := w.helper.Descendants(); len(kids) > 0 {
					return fmt.Errorf("the agent is still there: %q", kids)
				}
				return nil
			})
			// A client of the port that is left without its agent, and then the guest.
			addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
			for _, dial := range []func() net.Conn{
				func() net.Conn { return client(t, env.Host, "tcp4", "127.0.0.1:"+port) },
				func() net.Conn { return w.dial(t, "tcp4", addr.String()) },
			} {
				c := dial()
				if err := errors.Join(c.SetDeadline(time.Now().Add(deadline)), says(c, "hello")); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

type pipeEnds struct{ r, w *os.File }

// pipe makes a pipe whose ends are closed with the test.
func pipe(t testing.TB) (p pipeEnds, err error) {
	p.r, p.w, err = os.Pipe()
	t.Cleanup(func() { p.r.Close(); p.w.Close() })
	return p, err
}

// fill writes to a pipe until nothing more goes in. It blocks its writers then.
func fill(t testing.TB, w *os.File) {
	t.Helper()
	fd := int(w.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := unix.Write(fd, make([]byte, 1)); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
}

// TestStoppedAndContinued: what the guest sends while the helper is stopped arrives
// once it goes on, connections and mappings are the same as before, and a connection
// that was asked for meanwhile is made.
func TestStoppedAndContinued(t *testing.T) {
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		tcp := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		peers := make(chan string, 10)
		udp := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), func(b []byte, from net.Addr) []byte {
			peers <- from.String()
			return b
		})
		conns := []net.Conn{w.dial(t, "tcp"+f.v, tcp.String()), w.dial(t, "udp"+f.v, udp.LocalAddr().String())}
		for _, c := range conns {
			if err := says(c, "before"); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.helper.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, deadline, func() error { return isStopped(w.helper.PID) })
		for _, c := range conns {
			if _, err := c.Write([]byte("meanwhile")); err != nil {
				t.Error(err)
			}
		}
		dialled := make(chan error, 1)
		go func() {
			c, err := w.Dial(timeout(t, deadline), "tcp"+f.v, tcp.String())
			if err == nil {
				err = says(c, "new")
				c.Close()
			}
			dialled <- err
		}()
		// The SYN is on its way when the guest's kernel has a socket for it.
		eventually(t, deadline, func() error { return w.sending(f, port(tcp)) })
		if err := w.helper.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for _, c := range conns {
			b := make([]byte, 100)
			if n, err := c.Read(b); err != nil || string(b[:n]) != "meanwhile" {
				t.Errorf("%s: %q, %v", c.RemoteAddr().Network(), b[:n], err)
			}
			if err := says(c, "after"); err != nil {
				t.Error(err)
			}
		}
		if err := <-dialled; err != nil {
			t.Errorf("the connection asked for meanwhile: %v", err)
		}
		first := <-peers
		for range 2 {
			if next := <-peers; next != first {
				t.Errorf("datagrams come from %s, and came from %s", next, first)
			}
		}
	})
}

// isStopped is nil when a process is stopped.
func isStopped(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err == nil && !strings.Contains(string(b), "State:\tT") {
		err = errors.New("it still runs")
	}
	return err
}

// sending is nil when the guest has a connection to a port that is not answered yet.
func (w *world) sending(f family, port string) error {
	return w.Do(func() error {
		name := map[string]string{"4": "tcp", "6": "tcp6"}[f.v]
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			return err
		}
		var n int
		if _, err := fmt.Sscan(port, &n); err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			const synSent = "02" // TCP_SYN_SENT, include/net/tcp_states.h
			if c := strings.Fields(line); len(c) > 3 && strings.HasSuffix(c[2], fmt.Sprintf(":%04X", n)) && c[3] == synSent {
				return nil
			}
		}
		return errors.New("nothing is being connected")
	})
}

// TestNameserverGoneAndBack: without any nameserver queries fail, and the first one that
// is asked after it is back is answered.
func TestNameserverGoneAndBack(t *testing.T) {
	const server = "198.51.100.7"
	w := serveWith(t, harness.HelperConfig{Etc: etc(t, server)})
	answered := func(t *testing.T) {
		serveDNS(t, env.Net.Net, server, named("192.0.2.77"))
		for _, network := range []string{"udp4", "tcp4"} {
			if rcode, addr, err := w.lookup(t, network, dns4, "name.example.", deadline); err != nil || rcode != dns.RcodeSuccess || addr != "192.0.2.77" {
				t.Errorf("by %s: code %d, %q, %v", network, rcode, addr, err)
			}
		}
	}
	t.Run("there", answered)
	t.Run("gone", func(t *testing.T) {
		for _, network := range []string{"udp4", "tcp4"} {
			if rcode, _, err := w.lookup(t, network, dns4, "name.example.", deadline); err != nil || rcode != dns.RcodeServerFailure {
				t.Errorf("by %s: code %d, %v, want SERVFAIL", network, rcode, err)
			}
		}
	})
	t.Run("back", answered)
}
