package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// guestPort is where the servers of these tests listen in the guest. Host ports
// are each test's own, as some of them run side by side.
const guestPort = "8080"

// anyHost is the unspecified address of a family, as in a rule.
func (f family) anyHost() string {
	if f.af == unix.AF_INET {
		return "0.0.0.0"
	}
	return "[::]"
}

// host is the host's address on the link to the internet.
func (f family) host() string {
	if f.af == unix.AF_INET {
		return harness.HostIPv4
	}
	return harness.HostIPv6
}

// rule is what --publish takes for a port on all addresses of the family.
func (f family) rule(port string) string { return "--publish=" + f.anyHost() + ":" + port }

// published starts a guest with one port, on all addresses of both families,
// that leads to guestPort; suffix is the protocol.
func published(t testing.TB, port, suffix string, flags ...string) *world {
	t.Helper()
	ours(t, "--publish")
	for _, f := range families() {
		flags = append(flags, f.rule(port)+":"+guestPort+suffix)
	}
	return serve(t, flags...)
}

// eachPublished runs f with a published TCP port for each way to handle TCP, one
// after the other.
func eachPublished(t *testing.T, port string, f func(*testing.T, *world, family)) {
	t.Helper()
	for _, path := range []string{"inline", "plain"} {
		t.Run(path, func(t *testing.T) {
			w := published(t, port, "", "--mtu=65520", "--tcp-path="+path)
			eachFamily(t, func(t *testing.T, fam family) { f(t, w, fam) })
		})
	}
}

// client connects from a namespace and closes the connection with the test.
func client(t testing.TB, ns *harness.NetNS, network, addr string) net.Conn {
	t.Helper()
	c := must(ns.Dial(timeout(t, deadline), network, addr))(t)
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// says sends a few bytes and wants them back.
func says(c io.ReadWriter, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		return fmt.Errorf("%q came back for %q: %w", got, text, err)
	}
	return nil
}

// origin is a client's place, and the address that the guest sees it by.
type origin struct {
	name string
	ns   *harness.NetNS
	to   string // the host's address that it connects to
	seen string
}

func origins(f family) []origin {
	return []origin{
		{"loopback", env.Host, f.loop, f.gateway},
		{"host address", env.Host, f.host(), f.host()},
		{"another machine", env.Net.Net, f.host(), f.server},
	}
}

// dial binds the client to the address of the internet that tests use;
// which of its addresses a machine with several would choose is its own matter.
func (o origin) dial(t testing.TB, f family, network, addr string) net.Conn {
	t.Helper()
	var d net.Dialer
	if o.ns == env.Net.Net {
		ip := net.ParseIP(f.server)
		d.LocalAddr = &net.TCPAddr{IP: ip}
		if strings.HasPrefix(network, "udp") {
			d.LocalAddr = &net.UDPAddr{IP: ip}
		}
	}
	c := must(o.ns.DialWith(timeout(t, deadline), d, network, addr))(t)
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	return c
}

// refusal connects, and gives the error that the client then sees: a reset may
// be there before the call that connects has returned.
func refusal(t testing.TB, ns *harness.NetNS, network, addr string) error {
	t.Helper()
	c, err := ns.Dial(timeout(t, deadline), network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// TestB31_ServerSeesTheClient: a published port is reached from everywhere
// (B30), and the server sees the client's own address and port, TCP and UDP;
// those on the host's loopback are the gateway.
func TestB31_ServerSeesTheClient(t *testing.T) {
	const hostPort = "18031"
	for _, path := range []string{"inline", "plain"} {
		t.Run(path, func(t *testing.T) {
			ours(t, "--publish")
			w := serve(t, "--tcp-path="+path,
				"-p", "0.0.0.0:18031:8080", "-p", "[::]:18031:8080", "-p", "0.0.0.0:18031:8080/udp", "-p", "[::]:18031:8080/udp")
			eachFamily(t, func(t *testing.T, f family) {
				any := net.JoinHostPort(strings.Trim(f.anyHost(), "[]"), guestPort)
				serveTCP(t, w.NetNS, "tcp"+f.v, any, func(c *net.TCPConn) {
					_, _ = io.WriteString(c, c.RemoteAddr().String())
				})
				servePacket(t, w.NetNS, "udp"+f.v, any, func(_ []byte, from net.Addr) []byte { return []byte(from.String()) })
				for _, o := range origins(f) {
					for _, network := range []string{"tcp", "udp"} {
						c := o.dial(t, f, network+f.v, net.JoinHostPort(o.to, hostPort))
						if network == "udp" {
							if _, err := c.Write([]byte("who am I?")); err != nil {
								t.Fatal(err)
							}
						}
						b := make([]byte, 100)
						n, err := c.Read(b)
						if want := net.JoinHostPort(o.seen, port(c.LocalAddr())); err != nil || string(b[:n]) != want {
							t.Errorf("%s by %s is seen as %q, %v, want %s", o.name, network, b[:n], err, want)
						}
						c.Close()
					}
				}
			})
		})
	}
}

// TestB30_BoundExactlyWhereAsked: a rule's address, interface and family are
// served, and nothing else is.
func TestB30_BoundExactlyWhereAsked(t *testing.T) {
	t.Parallel()
	ours(t, "--publish")
	w := serve(t, "-p", "127.0.0.1:18041:8080", "-p", "[::1]:18042:8080",
		"-p", harness.HostIPv4+":18043:8080", "-p", "["+harness.HostIPv6+"]:18044:8080",
		"-p", "18045:8080", "-p", "[::]:18046:8080", "-p", "up0:18047:8080", "-p", "lo:18048:8080")
	for _, f := range families() {
		serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(strings.Trim(f.anyHost(), "[]"), guestPort), echoTCP)
	}
	const loop4, loop6, host4, host6 = "127.0.0.1", "::1", harness.HostIPv4, harness.HostIPv6
	for port, open := range map[string][]string{
		"18041": {loop4},
		"18042": {loop6},
		"18043": {host4},
		"18044": {host6},
		"18045": {loop4, host4, "127.0.0.9"},
		"18046": {loop6, host6},
		"18047": {host4},
		"18048": {loop4},
		"18049": {},
	} {
		for _, addr := range []string{loop4, "127.0.0.9", loop6, host4, host6} {
			want := false
			for _, a := range open {
				want = want || a == addr
			}
			from := []*harness.NetNS{env.Host}
			if addr == host4 || addr == host6 {
				from = append(from, env.Net.Net)
			}
			for _, ns := range from {
				c, err := ns.Dial(timeout(t, deadline), "tcp", net.JoinHostPort(addr, port))
				if err == nil {
					err = says(c, "hello")
					c.Close()
				}
				if want && err != nil || !want && !isErrno(err, unix.ECONNREFUSED) {
					t.Errorf("%s port %s: %v, want it open: %v", addr, port, err, want)
				}
			}
		}
	}
}

// TestB5_RestartWithTheSamePort: 50 rounds on one port, each stopped in another
// way and followed at once, with a connection open and others just closed.
func TestB5_RestartWithTheSamePort(t *testing.T) {
	ours(t, "--publish")
	g := newGuest(t)
	const hostPort = "18005"
	var slowest time.Duration
	for round := range 50 {
		if !t.Run("", func(t *testing.T) {
			h := attach(t, g, harness.HelperConfig{}, "-p", hostPort+":"+guestPort, "-p", hostPort+":"+guestPort+"/udp")
			slowest = max(slowest, h.Ready)
			serveTCP(t, g.NetNS, "tcp4", "0.0.0.0:"+guestPort, echoTCP)
			for range 3 {
				c := client(t, env.Host, "tcp4", "127.0.0.1:"+hostPort)
				if err := says(c, "hello"); err != nil {
					t.Fatal(err)
				}
			}
			client(t, env.Net.Net, "tcp4", harness.HostIPv4+":"+hostPort).Close()
			var err error
			switch round % 3 { // attach's cleanup waits for the end
			case 0:
				err = h.Signal(unix.SIGTERM)
			case 1:
				err = h.CloseExitFD()
			}
			if err != nil {
				t.Error(err)
			}
		}) {
			break
		}
	}
	t.Logf("slowest start: %v", slowest)
}

// TestB5_StartWhileThePredecessorDies: the port is waited for.
func TestB5_StartWhileThePredecessorDies(t *testing.T) {
	ours(t, "--publish")
	first, second := newGuest(t), newGuest(t)
	h := attach(t, first, harness.HelperConfig{}, "-p", "18006:8080")
	stop := time.AfterFunc(300*time.Millisecond, func() { _ = h.Signal(unix.SIGTERM) })
	defer stop.Stop()
	if took := attach(t, second, harness.HelperConfig{}, "-p", "18006:8080").Ready; took < 250*time.Millisecond || took > time.Second {
		t.Errorf("ready after %v, when the port was free after 300 ms", took)
	}
}

// TestB32_ThousandPorts: ready within 300 ms, one descriptor each and no
// process; and the first and the last of them work.
func TestB32_ThousandPorts(t *testing.T) {
	ours(t, "--publish")
	var none harness.Usage
	t.Run("without", func(t *testing.T) {
		w := serve(t)
		none = w.usage(t)
	})
	for _, proto := range []string{"tcp", "udp"} {
		t.Run(proto, func(t *testing.T) {
			w := serve(t, "-p", "20000-20999:30000-30999/"+proto)
			if w.helper.Ready > 300*time.Millisecond {
				t.Errorf("ready after %v", w.helper.Ready)
			}
			now := w.usage(t)
			if got := now.FDs - none.FDs; got < 1000 || got > 1000+runtimePoller {
				t.Errorf("%d descriptors for 1000 ports", got)
			}
			if kids := w.helper.Descendants(); len(kids) > 0 {
				t.Errorf("processes: %v", kids)
			}
			// Package portfwd measures what a port costs; a resident set is only
			// good for a bound.
			if grown := now.RSS - none.RSS; grown > 4<<20 {
				t.Errorf("grown by %d kB for 1000 ports", grown>>10)
			}
			t.Logf("ready after %v, %d kB more resident", w.helper.Ready, (now.RSS-none.RSS)>>10)
			for _, n := range []int{0, 500, 999} {
				at := fmt.Sprintf("0.0.0.0:%d", 30000+n)
				if proto == "tcp" {
					serveTCP(t, w.NetNS, "tcp4", at, echoTCP)
				} else {
					servePacket(t, w.NetNS, "udp4", at, echoPacket)
				}
				if err := says(client(t, env.Host, proto+"4", fmt.Sprintf("127.0.0.1:%d", 20000+n)), "hello"); err != nil {
					t.Errorf("port %d: %v", 20000+n, err)
				}
			}
		})
	}
}

// TestB33_RepliesGoToWhoAsked: clients of several machines, from the same port,
// on a host with several addresses; each takes answers from the address it
// asked alone. Host loopback being closed to the guest changes nothing.
func TestB33_RepliesGoToWhoAsked(t *testing.T) {
	second := map[string]string{"4": "192.0.2.77", "6": "2001:db8:1::77"}
	for _, f := range families() {
		addHostAddress(t, second[f.v])
	}
	for name, flags := range map[string][]string{"default": nil, "disable-host-loopback": {"--disable-host-loopback"}} {
		t.Run(name, func(t *testing.T) {
			w := published(t, "18033", "/udp", flags...)
			eachFamily(t, func(t *testing.T, f family) {
				servePacket(t, w.NetNS, "udp"+f.v, net.JoinHostPort(strings.Trim(f.anyHost(), "[]"), guestPort), echoPacket)
				var clients []net.Conn
				for _, from := range []struct {
					ns   *harness.NetNS
					addr string
				}{{env.Net.Net, f.server}, {env.Net.Net, f.other}, {env.Host, f.loop}, {env.Host, f.host()}} {
					for _, to := range []string{f.host(), second[f.v], f.loop} {
						if (to == f.loop) != (from.addr == f.loop) {
							continue
						}
						// Distinct ports per destination: one client port that asks two
						// of our addresses is one client to the guest.
						local := &net.UDPAddr{IP: net.ParseIP(from.addr), Port: 4000 + len(to)}
						c := must(from.ns.DialWith(timeout(t, deadline), net.Dialer{LocalAddr: local}, "udp"+f.v, net.JoinHostPort(to, "18033")))(t)
						defer c.Close()
						if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
							t.Fatal(err)
						}
						clients = append(clients, c)
					}
				}
				for i := range 20 {
					for _, c := range clients {
						if err := says(c, fmt.Sprintf("%s to %s, %d", c.LocalAddr(), c.RemoteAddr(), i)); err != nil {
							t.Fatalf("%s to %s: %v", c.LocalAddr(), c.RemoteAddr(), err)
						}
					}
				}
			})
		})
	}
}

// addHostAddress gives the host one more address for the time of the test.
func addHostAddress(t testing.TB, addr string) {
	t.Helper()
	change := func(f func(netlink.Link, *netlink.Addr) error) error {
		return env.Host.Do(func() error {
			l, err := netlink.LinkByName("up0")
			if err != nil {
				return err
			}
			a := netip.MustParseAddr(addr)
			bits := 24
			if a.Is6() {
				bits = 64
			}
			parsed, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", a, bits))
			if err != nil {
				return err
			}
			parsed.Flags = unix.IFA_F_NODAD
			return f(l, parsed)
		})
	}
	if err := change(netlink.AddrAdd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := change(netlink.AddrDel); err != nil {
			t.Error(err)
		}
	})
}

// TestB34_NobodyListens: the client is reset at once; a listener that appears
// is reached without a restart.
func TestB34_NobodyListens(t *testing.T) {
	const hostPort = "18034"
	eachPublished(t, hostPort, func(t *testing.T, w *world, f family) {
		reset := func() time.Duration {
			begin := time.Now()
			err := refusal(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.host(), hostPort))
			if !isErrno(err, unix.ECONNRESET) {
				t.Errorf("nobody listens, and the client saw %v", err)
			}
			return time.Since(begin)
		}
		var took []time.Duration
		for range 9 {
			took = append(took, reset())
		}
		if median(took) > 50*time.Millisecond {
			t.Errorf("reset after %v", took)
		}
		l := must(w.Listen("tcp"+f.v, net.JoinHostPort(strings.Trim(f.anyHost(), "[]"), guestPort)))(t)
		accepted := make(chan net.Conn, 1)
		go func() {
			defer close(accepted)
			if c, err := l.Accept(); err == nil {
				accepted <- c
			}
		}()
		c := client(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.host(), hostPort))
		server, ok := <-accepted
		if !ok {
			t.Fatal("a listener that appeared is not reached")
		}
		if err := exchange(c.(*net.TCPConn), server.(*net.TCPConn)); err != nil {
			t.Error(err)
		}
		server.Close()
		l.Close()
		reset()
	})
}

// TestB34_SilentGuest: a guest that does not answer costs a client ten seconds
// and others nothing.
func TestB34_SilentGuest(t *testing.T) {
	t.Parallel()
	ours(t, "--publish")
	w := serve(t, "-p", "18134:8080", "-p", "18135:8081")
	serveTCP(t, w.NetNS, "tcp4", "0.0.0.0:8081", echoTCP)
	// A listener whose queue is full lets a SYN pass without a word.
	fd := must(w.Socket(unix.AF_INET, unix.SOCK_STREAM, 0))(t)
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, sockaddr("0.0.0.0", 8080)), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	client(t, w.NetNS, "tcp4", "127.0.0.1:8080")
	before := w.usage(t)
	begin := time.Now()
	var waiting []net.Conn
	for range 100 {
		waiting = append(waiting, client(t, env.Host, "tcp4", "127.0.0.1:18134"))
	}
	beside := client(t, env.Host, "tcp4", "127.0.0.1:18135")
	if err := says(beside, "hello"); err != nil {
		t.Errorf("beside clients that wait: %v", err)
	}
	beside.Close()
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("another port answers after %v", took)
	}
	for _, c := range waiting {
		if _, err := c.Read(make([]byte, 1)); !isErrno(err, unix.ECONNRESET) {
			t.Fatalf("a silent guest: %v", err)
		}
	}
	if took := time.Since(begin); took < 9*time.Second || took > 15*time.Second {
		t.Errorf("clients of a silent guest were given up after %v, want 10 s", took)
	}
	w.backTo(t, before, 16<<20)
}

// TestB35_GuestLoopbackIsNotPublished: a service on the guest's own loopback is
// for nobody but the guest.
func TestB35_GuestLoopbackIsNotPublished(t *testing.T) {
	const hostPort = "18035"
	w := published(t, hostPort, "")
	eachFamily(t, func(t *testing.T, f family) {
		serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.loop, guestPort), echoTCP)
		if err := says(client(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.loop, guestPort)), "hello"); err != nil {
			t.Fatal(err)
		}
		for _, o := range origins(f) {
			if err := refusal(t, o.ns, "tcp"+f.v, net.JoinHostPort(o.to, hostPort)); !isErrno(err, unix.ECONNRESET) {
				t.Errorf("from %s: %v, want a reset", o.name, err)
			}
		}
	})
}

// TestB36_FailureIsOneLineAndNothingPublished: exit status 1, a line that names
// the port and what to do, and no port and no interface is left.
func TestB36_FailureIsOneLineAndNothingPublished(t *testing.T) {
	ours(t, "--publish")
	busy := serveTCP(t, env.Host, "tcp4", "127.0.0.1:0", echoTCP)
	var first int // host port of a rule that works, before the one that does not
	for name, c := range map[string]struct {
		rule string
		says []string
		took time.Duration
	}{
		"busy":         {fmt.Sprintf("127.0.0.1:%s:80", port(busy)), []string{busy.String(), "address already in use"}, 4 * time.Second},
		"busy range":   {fmt.Sprintf("127.0.0.1:%s-65535", port(busy)), []string{busy.String(), "address already in use"}, 4 * time.Second},
		"below 1024":   {"80", []string{"0.0.0.0:80", "permission denied", "net.ipv4.ip_unprivileged_port_start=80"}, time.Second},
		"UDP":          {"53/udp", []string{"udp", "0.0.0.0:53", "permission denied"}, time.Second},
		"IPv6":         {"[::]:80", []string{"[::]:80", "permission denied"}, time.Second},
		"not ours":     {"203.0.113.1:8080", []string{"203.0.113.1:8080", "cannot assign requested address"}, time.Second},
		"no interface": {"nosuch0:8080", []string{"nosuch0", "no such network interface"}, time.Second},
	} {
		first++
		works := fmt.Sprintf("127.0.0.1:%d", 18360+first)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t)
			begin := time.Now()
			h := must(env.Start(timeout(t, deadline), harness.HelperConfig{
				Args: []string{"-6", "-c", "-r", harness.ReadyFD, "-p", works, "-p", c.rule, fmt.Sprint(g.PID), tapName}, NoWait: true,
			}))(t)
			defer h.Kill()
			code, sig, err := h.Exit(timeout(t, deadline))
			if took := time.Since(begin); err != nil || code != 1 || took > c.took {
				t.Errorf("exit status %d, signal %v, %v after %v, want 1", code, sig, err, took)
			}
			if err := h.WaitReady(timeout(t, time.Second)); err == nil {
				t.Error("the ready byte was written")
			}
			said := strings.TrimSpace(h.Stderr.String())
			for _, word := range c.says {
				if !strings.Contains(said, word) {
					t.Errorf("said %q, which does not name %q", said, word)
				}
			}
			if strings.Contains(said, "\n") {
				t.Errorf("more than a line: %q", said)
			}
			if links, err := g.Links(); err != nil || len(links) > 0 {
				t.Errorf("left behind in the guest: %v, %v", links, err)
			}
			if err := refusal(t, env.Host, "tcp4", works); !isErrno(err, unix.ECONNREFUSED) {
				t.Errorf("the rule before it is still published: %v", err)
			}
		})
	}
	for _, rule := range []string{"x", "80/sctp", "80-79", "80:90-91", ""} {
		h := must(env.Start(timeout(t, deadline), harness.HelperConfig{Args: []string{"-p", rule, "1", tapName}, NoWait: true}))(t)
		code, _, err := h.Exit(timeout(t, deadline))
		if err != nil || code != 1 || !strings.Contains(h.Stderr.String(), fmt.Sprintf("%q", rule)) {
			t.Errorf("-p %q: exit status %d, %v, %q", rule, code, err, h.Stderr)
		}
		h.Kill()
	}
}

// TestB11_PublishedHalfClose: either side ends its direction first, and 5 MB
// come the other way.
func TestB11_PublishedHalfClose(t *testing.T) {
	const hostPort = "18011"
	data := random(11, 5<<20)
	first := func(c *net.TCPConn) error {
		if _, err := c.Write([]byte("last words")); err != nil {
			return err
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		got, err := io.ReadAll(c)
		if err == nil && !bytes.Equal(got, data) {
			err = fmt.Errorf("received %d bytes of %d, or others", len(got), len(data))
		}
		return err
	}
	second := func(c *net.TCPConn) error {
		if got, err := io.ReadAll(c); err != nil || string(got) != "last words" {
			return fmt.Errorf("before the end of the stream: %q, %w", got, err)
		}
		if _, err := c.Write(data); err != nil {
			return err
		}
		return c.CloseWrite()
	}
	eachPublished(t, hostPort, func(t *testing.T, w *world, f family) {
		before := w.usage(t)
		for _, o := range origins(f) {
			t.Run(o.name, func(t *testing.T) {
				for name, sides := range map[string][2]func(*net.TCPConn) error{"client": {first, second}, "server": {second, first}} {
					t.Run(name+" stops first", func(t *testing.T) {
						served := make(chan error, 1)
						serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(strings.Trim(f.anyHost(), "[]"), guestPort), func(c *net.TCPConn) { served <- sides[1](c) })
						c := o.dial(t, f, "tcp"+f.v, net.JoinHostPort(o.to, hostPort)).(*net.TCPConn)
						if err := errors.Join(sides[0](c), <-served); err != nil {
							t.Error(err)
						}
					})
				}
			})
		}
		w.backTo(t, before, 64<<20)
	})
}

// TestB12_PublishedReset: a reset by the client or the server reaches the other
// within 100 ms.
func TestB12_PublishedReset(t *testing.T) {
	const hostPort = "18012"
	eachPublished(t, hostPort, func(t *testing.T, w *world, f family) {
		accepted, release := make(chan *net.TCPConn), make(chan struct{})
		defer close(release)
		serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(strings.Trim(f.anyHost(), "[]"), guestPort), func(c *net.TCPConn) {
			accepted <- c
			<-release
		})
		before := w.usage(t)
		for _, o := range origins(f) {
			for _, by := range []string{"client", "server"} {
				a := o.dial(t, f, "tcp"+f.v, net.JoinHostPort(o.to, hostPort)).(*net.TCPConn)
				b := <-accepted
				if by == "server" {
					a, b = b, a
				}
				if err := exchange(a, b); err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				if err := errors.Join(a.SetLinger(0), a.Close(), b.SetReadDeadline(begin.Add(2*time.Second))); err != nil {
					t.Fatal(err)
				}
				_, err := b.Read(make([]byte, 1))
				if took := time.Since(begin); !isErrno(err, unix.ECONNRESET) || took > 100*time.Millisecond {
					t.Errorf("from %s, reset by the %s: the other side saw %v after %v", o.name, by, err, took)
				}
				b.Close()
			}
		}
		w.backTo(t, before, 32<<20)
	})
}

// TestB16_PublishedShortConnections: 10 000 in a row, from another machine and
// from loopback, and nothing stays behind. The plain path, which is several
// times slower at this, has fewer.
func TestB16_PublishedShortConnections(t *testing.T) {
	const hostPort = "18016"
	eachPublished(t, hostPort, func(t *testing.T, w *world, f family) {
		serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(strings.Trim(f.anyHost(), "[]"), guestPort), func(c *net.TCPConn) {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err == nil {
				_, _ = c.Write(b)
				_, _ = c.Read(b)
			}
		})
		total := 10_000
		if strings.Contains(t.Name(), "plain") {
			total = 1000
		}
		before := w.usage(t)
		begin := time.Now()
		for _, o := range []struct {
			ns *harness.NetNS
			to string
			n  int
		}{{env.Net.Net, f.host(), total}, {env.Host, f.loop, total / 5}} {
			if err := o.ns.Do(func() error {
				for i := range o.n {
					if err := oneByte(f, net.JoinHostPort(o.to, hostPort)); err != nil {
						return fmt.Errorf("connection %d to %s: %w", i, o.to, err)
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d connections in %v", total+total/5, time.Since(begin).Round(time.Millisecond))
		w.backTo(t, before, 64<<20)
	})
}

// TestB16_PublishedConcurrentConnections: 2000 at once each get their own bytes
// back.
func TestB16_PublishedConcurrentConnections(t *testing.T) {
	const hostPort = "18017"
	eachPublished(t, hostPort, func(t *testing.T, w *world, f family) {
		total := descriptorRoom(t, 2000)
		serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(strings.Trim(f.anyHost(), "[]"), guestPort), echoTCP)
		clients := &world{Guest: &harness.Guest{NetNS: env.Net.Net}} // who are elsewhere
		clients.manyConnections(t, f, net.JoinHostPort(f.host(), hostPort), total/10)
		before := w.usage(t)
		begin := time.Now()
		clients.manyConnections(t, f, net.JoinHostPort(f.host(), hostPort), total)
		t.Logf("%d connections opened, used and closed in %v", total, time.Since(begin).Round(time.Millisecond))
		w.backTo(t, before, 160<<20)
	})
}

// TestRunPublishes: a server that run's command starts is reached, and sees who
// asks; a port that cannot be had keeps the command from starting.
func TestRunPublishes(t *testing.T) {
	ours(t, "--publish")
	needs(t, "perl")
	const server = `$s = IO::Socket::INET->new(Listen => 5, LocalPort => 8080) or die $!; $| = 1; print "listening\n";
		$c = $s->accept or die $!; print $c "hello ", $c->peerhost, "\n"; close $c`
	h := run(t, harness.HelperConfig{}, "-p", "18018:8080", "--", "perl", "-MIO::Socket::INET", "-e", server)
	eventually(t, deadline, func() error {
		if !strings.Contains(h.Stdout.String(), "listening") {
			return fmt.Errorf("no server: %s%s", h.Stdout, h.Stderr)
		}
		return nil
	})
	o := origins(families()[0])[2]
	got, err := io.ReadAll(o.dial(t, families()[0], "tcp4", harness.HostIPv4+":18018"))
	if want := "hello " + harness.NetIPv4 + "\n"; err != nil || string(got) != want {
		t.Errorf("the command's server said %q, %v, want %q", got, err, want)
	}
	if code, _, err := h.Exit(timeout(t, deadline)); err != nil || code != 0 {
		t.Errorf("exit status %d, %v: %s", code, err, h.Stderr)
	}
	h = run(t, harness.HelperConfig{}, "-p", "80", "--", "echo", "started")
	if code, _, err := h.Exit(timeout(t, deadline)); err != nil || code != 1 || h.Stdout.String() != "" || strings.Count(h.Stderr.String(), "\n") != 1 {
		t.Errorf("a port that cannot be had: exit status %d, %v, %q, %q", code, err, h.Stdout, h.Stderr)
	}
}
