package test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// pastaWith starts our program by pasta's name, in the foreground, for a guest that it
// configures, and waits until it says that all of it works.
func pastaWith(t testing.TB, g *harness.Guest, flags ...string) *harness.Helper {
	t.Helper()
	return pastaOn(t, g, harness.HelperConfig{}, flags...)
}

// pastaOn does so on a host of the test's own.
func pastaOn(t testing.TB, g *harness.Guest, on harness.HelperConfig, flags ...string) *harness.Helper {
	t.Helper()
	link, pid := pastaLink(t), filepath.Join(t.TempDir(), "pid")
	on.Args = append(append([]string{"-f", "--config-net", "-I", tapName, "--pid", pid}, flags...), fmt.Sprint(g.PID))
	on.Wrap, on.NoWait, on.Plain = []string{"sh", "-c", `shift; exec "$0" "$@"`, link}, true, true
	h, err := env.Start(timeout(t, deadline), on)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Kill()
		if t.Failed() {
			t.Logf("pasta %q said:\n%s", flags, h.Stderr)
		}
	})
	eventually(t, deadline, func() error {
		_, err := os.Stat(pid)
		return err
	})
	return h
}

// pastaWorld makes a guest as well.
func pastaWorld(t testing.TB, flags ...string) *world {
	t.Helper()
	g := newGuest(t)
	w := &world{Guest: g, helper: pastaWith(t, g, flags...)}
	w.waitAddress(t, unix.AF_INET)
	w.waitAddress(t, unix.AF_INET6)
	return w
}

// tellBoth says who the client is, and whom it asked.
func tellBoth(c *net.TCPConn) {
	from, to := c.RemoteAddr().(*net.TCPAddr), c.LocalAddr().(*net.TCPAddr)
	fmt.Fprintf(c, "%v %v", from.IP, to.IP)
}

// TestPastaPublished: one option takes clients of both families; to the guest's server
// those of the host's loopback are the guest itself, at its address, and a server that
// listens on the guest's loopback alone is not reached.
func TestPastaPublished(t *testing.T) {
	w := pastaWorld(t, "-t", "8080-8081:80-81", "-u", "8080:53", "-T", "none", "-U", "none")
	eachFamily(t, func(t *testing.T, f family) {
		own := w.waitAddress(t, f.af).String()
		serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.anyHostAddr(), "80"), tellBoth)
		serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.loop, "81"), tellBoth)
		servePacket(t, w.NetNS, "udp"+f.v, net.JoinHostPort(f.anyHostAddr(), "53"), peerOfDatagram)
		c := client(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "8080"))
		if got, err := io.ReadAll(c); err != nil || string(got) != own+" "+own {
			t.Errorf("from loopback the server sees %q (%v), want %s twice", got, err, own)
		}
		if err := refusal(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "8081")); !isErrno(err, unix.ECONNRESET) {
			t.Errorf("a server on the guest's loopback: %v", err)
		}
		c = origin{ns: env.Net.Net}.dial(t, f, "tcp"+f.v, net.JoinHostPort(f.host(), "8080"))
		if got, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(got), " "+own) || strings.HasPrefix(string(got), own) {
			t.Errorf("from another machine the server sees %q, %v", got, err)
		}
		wantPeer(t, client(t, env.Host, "udp"+f.v, net.JoinHostPort(f.loop, "8080")), own)
		u := origin{ns: env.Net.Net}.dial(t, f, "udp"+f.v, net.JoinHostPort(f.host(), "8080"))
		wantPeer(t, u, must(netip.ParseAddrPort(u.LocalAddr().String()))(t).Addr().String())
	})
}

// wantPeer asks a server of datagrams that tells its clients who they are.
func wantPeer(t testing.TB, c net.Conn, want string) {
	t.Helper()
	if _, err := io.WriteString(c, "who?"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := c.Read(b); err != nil || string(b[:n]) != want {
		t.Errorf("a server of datagrams sees %q, %v, want %s", b[:n], err, want)
	}
}

// TestPastaManyDatagramClients of the host's loopback at once: each has its answers, of any
// size and in bursts.
func TestPastaManyDatagramClients(t *testing.T) {
	t.Parallel()
	w := pastaWorld(t, "-t", "none", "-u", "18094:53", "-T", "none", "-U", "none")
	eachFamily(t, func(t *testing.T, f family) {
		servePacket(t, w.NetNS, "udp"+f.v, net.JoinHostPort(f.anyHostAddr(), "53"), echoPacket)
		var clients []net.Conn
		for range 50 {
			clients = append(clients, client(t, env.Host, "udp"+f.v, net.JoinHostPort(f.loop, "18094")))
		}
		for i, c := range clients {
			for j := range 20 {
				fmt.Fprint(c, i, " ", j)
			}
		}
		b := make([]byte, 1<<16)
		for i, c := range clients {
			for j := range 20 {
				if n, err := c.Read(b); err != nil || string(b[:n]) != fmt.Sprint(i, " ", j) {
					t.Fatalf("client %d, datagram %d: %q, %v", i, j, b[:n], err)
				}
			}
			if err := says(c, strings.Repeat("x", 1000*(i+1))); err != nil {
				t.Errorf("%d bytes: %v", 1000*(i+1), err)
			}
		}
	})
}

// anyHostAddr is the unspecified address.
func (f family) anyHostAddr() string {
	if f.af == unix.AF_INET6 {
		return "::"
	}
	return "0.0.0.0"
}

// TestPastaLoopbackToLoopback: where it is asked for, clients of the host's loopback reach
// servers on the guest's.
func TestPastaLoopbackToLoopback(t *testing.T) {
	w := pastaWorld(t, "--host-lo-to-ns-lo", "-t", "8080:80", "-u", "8080:53", "-T", "none", "-U", "none")
	eachFamily(t, func(t *testing.T, f family) {
		serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.loop, "80"), tellBoth)
		c := client(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "8080"))
		if got, err := io.ReadAll(c); err != nil || string(got) != f.loop+" "+f.loop {
			t.Errorf("the server sees %q, %v", got, err)
		}
		servePacket(t, w.NetNS, "udp"+f.v, net.JoinHostPort(f.loop, "53"), peerOfDatagram)
		wantPeer(t, client(t, env.Host, "udp"+f.v, net.JoinHostPort(f.loop, "8080")), f.loop)
	})
}

// TestPastaExposed: the host's loopback is reached by ports of the guest's, TCP and UDP,
// mapped too, and what is not named is not.
func TestPastaExposed(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		tcp := must(strconv.Atoi(hostService(t, f, tellWho)))(t)
		udp := port(servePacket(t, env.Host, "udp"+f.v, net.JoinHostPort(f.loop, "0"), echoPacket).LocalAddr())
		w := pastaWorld(t, "-t", "none", "-u", "none", "-T", fmt.Sprintf("80-81:%d-%d", tcp-1, tcp), "-U", "53:"+udp)
		c := w.dial(t, "tcp"+f.v, net.JoinHostPort(f.loop, "81"))
		if who, err := io.ReadAll(c); err != nil || string(who) != f.loop {
			t.Errorf("the server sees %q, %v", who, err)
		}
		for i := range 3 {
			if err := says(w.dial(t, "udp"+f.v, net.JoinHostPort(f.loop, "53")), fmt.Sprint("hello ", i)); err != nil {
				t.Errorf("UDP: %v", err)
			}
		}
		if err := refusal(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.loop, "82")); !isErrno(err, unix.ECONNREFUSED) {
			t.Errorf("a port that is not exposed: %v", err)
		}
	})
}

// TestPastaExposedOneFamily: a port is on loopback addresses of the families that there are.
func TestPastaExposedOneFamily(t *testing.T) {
	t.Parallel()
	for i, off := range []string{"-6", "-4"} { // IPv4 is the first of families
		g := newGuest(t)
		pastaDaemon(t, g, off, "-t", "none", "-u", "none", "-T", "80", "-U", "none")
		for j, f := range families() {
			c, err := g.Dial(timeout(t, deadline), "tcp"+f.v, net.JoinHostPort(f.loop, "80"))
			if err == nil {
				c.Close()
			}
			// Nobody listens on the host, so an accepted client is reset, perhaps at once.
			if listens := err == nil || isErrno(err, unix.ECONNRESET); listens != (i != j) {
				t.Errorf("%s: %s: %v", off, f.loop, err)
			}
		}
	}
}

// TestPastaAuto: by default ports follow servers in both directions, soon after these come
// and go; those of one direction do not lead back by the other.
func TestPastaAuto(t *testing.T) {
	w := pastaWorld(t)
	eachFamily(t, func(t *testing.T, f family) {
		begin := time.Now()
		l := must(w.Listen("tcp"+f.v, net.JoinHostPort(f.anyHostAddr(), "8090")))(t)
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				tellBoth(c.(*net.TCPConn))
				c.Close()
			}
		}()
		servePacket(t, w.NetNS, "udp"+f.v, net.JoinHostPort(f.anyHostAddr(), "8090"), echoPacket)
		hostServer := hostService(t, f, tellWho) // of a port that the kernel has chosen
		named := must(env.Host.Listen("tcp"+f.v, net.JoinHostPort(f.loop, "8091")))(t)
		defer named.Close()
		go func() {
			for {
				c, err := named.Accept()
				if err != nil {
					return
				}
				tellWho(c.(*net.TCPConn))
				c.Close()
			}
		}()
		eventually(t, deadline, func() error {
			c, err := env.Host.Dial(timeout(t, deadline), "tcp"+f.v, net.JoinHostPort(f.loop, "8090"))
			if err != nil {
				return err
			}
			defer c.Close()
			got, err := io.ReadAll(c)
			if err == nil && len(got) == 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		})
		eventually(t, deadline, func() error {
			c, err := w.Dial(timeout(t, deadline), "tcp"+f.v, net.JoinHostPort(f.loop, "8091"))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = io.ReadAll(c)
			return err
		})
		t.Logf("followed within %v", time.Since(begin))
		eventually(t, deadline, func() error {
			return says(client(t, env.Host, "udp"+f.v, net.JoinHostPort(f.loop, "8090")), "hello")
		})
		if err := refusal(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.loop, hostServer)); !isErrno(err, unix.ECONNREFUSED) {
			t.Errorf("a port that the kernel gives to clients is exposed: %v", err)
		}
		l.Close()
		named.Close()
		for ns, at := range map[*harness.NetNS]string{env.Host: "8090", w.NetNS: "8091"} {
			eventually(t, deadline, func() error {
				if err := refusal(t, ns, "tcp"+f.v, net.JoinHostPort(f.loop, at)); !isErrno(err, unix.ECONNREFUSED) {
					return fmt.Errorf("port %s after its server has gone: %v", at, err)
				}
				return nil
			})
		}
	})
}

// TestPastaUDPFollowsTCP: unless -u says something else, a UDP port follows each TCP port with
// a server, as programs want that ask for both by one number. It is there before the server
// of datagrams is.
func TestPastaUDPFollowsTCP(t *testing.T) {
	t.Parallel()
	w := pastaWorld(t, "-t", "18092")
	other := pastaWorld(t, "-t", "18093", "-u", "none", "-T", "none", "-U", "none")
	for at, w := range map[string]*world{"18092": w, "18093": other} {
		serveTCP(t, w.NetNS, "tcp4", "0.0.0.0:"+at, tellBoth)
	}
	eventually(t, deadline, func() error {
		if !hostHasUDP(t, 18092) {
			return fmt.Errorf("no UDP port follows the TCP port")
		}
		return nil
	})
	servePacket(t, w.NetNS, "udp4", "0.0.0.0:18092", echoPacket)
	if err := says(client(t, env.Host, "udp4", "127.0.0.1:18092"), "hello"); err != nil {
		t.Error(err)
	}
	if hostHasUDP(t, 18093) {
		t.Error("a UDP port follows although -u says none")
	}
}

// hostHasUDP reports whether a socket of the host's has a port. To bind it would be in the
// way of who is about to.
func hostHasUDP(t *testing.T, port int) (has bool) {
	t.Helper()
	if err := env.Host.Do(func() error {
		for _, name := range []string{"udp", "udp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(b)) {
				c := strings.Fields(line)
				has = has || len(c) > 1 && strings.HasSuffix(c[1], fmt.Sprintf(":%04X", port))
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return has
}

// TestPastaBusyPort: a port that is named and cannot be had ends the start, with what and
// why; of all ports those are left out that cannot be had.
func TestPastaBusyPort(t *testing.T) {
	l := must(env.Host.Listen("tcp4", "0.0.0.0:8095"))(t)
	defer l.Close()
	g := newGuest(t)
	got := call(t, pastaLink(t), "--config-net", "-t", "8095", "-u", "none", "-T", "none", "-U", "none", fmt.Sprint(g.PID))
	if got.code != 1 || strings.Count(got.said, "\n") != 1 || !strings.Contains(got.said, "listen on tcp [::]:8095: address already in use") {
		t.Errorf("%+v", got)
	}
	pastaWorld(t, "-t", "8090-8099,~8095", "-u", "none", "-T", "none", "-U", "none")
}

// TestPastaRange: thousands of ports are there at the start.
func TestPastaRange(t *testing.T) {
	for _, n := range []int{1000, 15000} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			g := newGuest(t)
			begin := time.Now()
			h := pastaWith(t, g, "-t", fmt.Sprintf("10000-%d", 10000+n-1), "-u", "none", "-T", "none", "-U", "none")
			t.Logf("%d ports: %v, %v", n, time.Since(begin), must(h.Usage())(t))
			if took := time.Since(begin); late(t, took, 5*time.Second) {
				t.Errorf("took %v", took)
			}
			if err := refusal(t, env.Host, "tcp4", fmt.Sprintf("127.0.0.1:%d", 10000+n-1)); !isErrno(err, unix.ECONNRESET) {
				t.Errorf("the last port: %v", err)
			}
		})
	}
}
