package test

import (
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

// publishPaths are the ways in which TCP clients are carried in.
func publishPaths() []cell {
	return []cell{
		{"stack", []string{"--publish-mode=stack"}},
		{"queues", []string{"--publish-mode=stack", "--queues=3"}},
		{"direct", []string{"--publish-mode=direct"}},
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
	for _, path := range publishPaths() {
		t.Run(path.name, func(t *testing.T) {
			ours(t, "--publish")
			w := serve(t, append(path.flags,
				"-p", "0.0.0.0:18031:8080", "-p", "[::]:18031:8080", "-p", "0.0.0.0:18031:8080/udp", "-p", "[::]:18031:8080/udp")...)
			eachFamily(t, func(t *testing.T, f family) {
				everywhere := f.anyHost() + ":" + guestPort
				serveTCP(t, w.NetNS, "tcp"+f.v, everywhere, func(c *net.TCPConn) {
					_, _ = io.WriteString(c, c.RemoteAddr().String())
				})
				servePacket(t, w.NetNS, "udp"+f.v, everywhere, func(_ []byte, from net.Addr) []byte { return []byte(from.String()) })
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
		serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, echoTCP)
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
				servePacket(t, w.NetNS, "udp"+f.v, f.anyHost()+":"+guestPort, echoPacket)
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

// TestPublishedFromTheGuest: the guest reaches its own published port by the
// gateway and by the host's address, as any client does.
func TestPublishedFromTheGuest(t *testing.T) {
	ours(t, "--publish")
	const hostPort = "18020"
	var flags []string
	for _, f := range families() {
		flags = append(flags, f.rule(hostPort)+":"+guestPort, f.rule(hostPort)+":"+guestPort+"/udp")
	}
	w := serve(t, flags...)
	eachFamily(t, func(t *testing.T, f family) {
		serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, echoTCP)
		servePacket(t, w.NetNS, "udp"+f.v, f.anyHost()+":"+guestPort, echoPacket)
		for _, to := range []string{f.gateway, f.host()} {
			for _, network := range []string{"tcp", "udp"} {
				c := w.dial(t, network+f.v, net.JoinHostPort(to, hostPort))
				if err := errors.Join(c.SetDeadline(time.Now().Add(deadline)), says(c, "myself")); err != nil {
					t.Errorf("%s to %s: %v", network, to, err)
				}
			}
		}
	})
}
