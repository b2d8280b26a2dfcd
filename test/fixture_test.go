package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// Addresses of the default address plan, as the guest sees them.
const (
	tapName  = "tap0"
	gateway4 = "10.0.2.2"
	gateway6 = "fd00::2"
	dns4     = "10.0.2.3"
	dns6     = "fd00::3"
	guest4   = "10.0.2.100"
)

// family is one IP version with what a test of it needs to know.
type family struct {
	name    string
	af      int    // AF_INET or AF_INET6
	v       string // suffix of network names: tcp4, udp6
	server  string // an address of the internet
	other   string // another address of the same machine
	silent  string
	noHost  string // EHOSTUNREACH
	noNet   string // ENETUNREACH
	gateway string
	dns     string
	loop    string // loopback
}

func families() []family {
	return []family{
		{"IPv4", unix.AF_INET, "4", harness.NetIPv4, harness.OtherIPv4, harness.SilentIPv4,
			harness.HostUnreachableIPv4, harness.NetUnreachableIPv4, gateway4, dns4, "127.0.0.1"},
		{"IPv6", unix.AF_INET6, "6", harness.NetIPv6, harness.OtherIPv6, harness.SilentIPv6,
			harness.HostUnreachableIPv6, harness.NetUnreachableIPv6, gateway6, dns6, "::1"},
	}
}

// eachFamily runs f as a subtest for IPv4 and for IPv6.
func eachFamily(t *testing.T, f func(*testing.T, family)) {
	for _, fam := range families() {
		t.Run(fam.name, func(t *testing.T) { f(t, fam) })
	}
}

// world is a guest with a helper that serves it.
type world struct {
	*harness.Guest
	helper *harness.Helper
	stock  int // sockets that the helper may hold in reserve, or just have used
}

// deadline is how long anything may take that has no tighter bound of its own.
const deadline = 10 * time.Second

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// late reports whether something took longer than the limit allows on a machine as busy as
// this one is: beside what it took stands what the program takes to do nothing but print its
// version.
func late(t testing.TB, took, limit time.Duration) bool {
	t.Helper()
	if took <= limit {
		return false
	}
	begin := time.Now()
	if err := exec.Command(env.Binary, "--version").Run(); err != nil {
		t.Fatal(err)
	}
	version := time.Since(begin)
	t.Logf("took %v, --version takes %v", took, version)
	return took > min(limit+20*version, 10*time.Second)
}

func timeout(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually fails the test when f gives an error for longer than d.
func eventually(t testing.TB, d time.Duration, f func() error) {
	t.Helper()
	if err := harness.Eventually(d, f); err != nil {
		t.Fatal(err)
	}
}

// soon is eventually for what users are promised within d; it may take longer on a machine
// that is as much slower.
func soon(t testing.TB, d time.Duration, f func() error) {
	t.Helper()
	begin := time.Now()
	eventually(t, deadline, f)
	if took := time.Since(begin); late(t, took, d) {
		t.Errorf("took %v, want %v at most", took, d)
	}
}

// must fails the test on an error and passes the value on.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newGuest makes a guest that is checked to be empty when the test ends.
func newGuest(t testing.TB) *harness.Guest {
	t.Helper()
	g := must(env.NewGuest())(t)
	guests.Add(1)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Errorf("close guest: %v", err)
		}
	})
	return g
}

// attach starts a helper for the guest the way podman does, with more flags
// before the usual ones.
func attach(t testing.TB, g *harness.Guest, cfg harness.HelperConfig, flags ...string) *harness.Helper {
	t.Helper()
	cfg.Args = append(append(cfg.Args, flags...), "-c", "-r", harness.ReadyFD, "-e", harness.ExitFD, fmt.Sprint(g.PID), tapName)
	h, err := env.Start(timeout(t, deadline), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Kill()
		if t.Failed() {
			t.Logf("helper %q said:\n%s", cfg.Args, h.Stderr)
		}
		if err := harness.Eventually(deadline, func() error {
			if links, err := g.Links(); err != nil || len(links) > 0 {
				return fmt.Errorf("links left in the guest: %v, %v", links, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	return h
}

// serve makes a guest and a helper for it, IPv6 included, and waits until both
// families have an address.
func serve(t testing.TB, flags ...string) *world {
	t.Helper()
	return serveWith(t, harness.HelperConfig{}, flags...)
}

func serveWith(t testing.TB, cfg harness.HelperConfig, flags ...string) *world {
	t.Helper()
	g := newGuest(t)
	w := &world{Guest: g, helper: attach(t, g, cfg, append([]string{"-6"}, flags...)...)}
	w.waitAddress(t, unix.AF_INET)
	w.waitAddress(t, unix.AF_INET6)
	return w
}

// link is the guest's interface as its kernel describes it.
func (w *world) link(t testing.TB) (link *netlink.Tuntap) {
	t.Helper()
	if err := w.Do(func() error {
		l, err := netlink.LinkByName(tapName)
		if err == nil {
			link = l.(*netlink.Tuntap)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return link
}

// oneQueue skips a test of a device that cannot have more, if all are to have.
func oneQueue(t testing.TB) {
	t.Helper()
	if flags := os.Getenv(harness.EnvFlags); strings.Contains(flags, "--queues") {
		t.Skipf("the device of this test has one queue, and %s has %s", harness.EnvFlags, flags)
	}
}

func (w *world) waitAddress(t testing.TB, af int) netip.Addr {
	t.Helper()
	var addr netip.Addr
	eventually(t, deadline, func() (err error) {
		addr, err = w.Address(tapName, af)
		return err
	})
	return addr
}

// ours skips a test of something that only our own helper has.
func ours(t testing.TB, what string) {
	t.Helper()
	if !env.Product {
		t.Skipf("%s has no %s", env.Binary, what)
	}
}

// dial connects from the guest and closes the connection with the test.
func (w *world) dial(t testing.TB, network, addr string) net.Conn {
	t.Helper()
	c, err := w.Dial(timeout(t, deadline), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// port gives the port of a listener or packet connection.
func port(a net.Addr) string {
	_, p, _ := strings.Cut(a.String()[strings.LastIndexByte(a.String(), ']')+1:], ":")
	return p
}

// hostPort joins an address and the port of a listener.
func hostPort(host string, a net.Addr) string { return net.JoinHostPort(host, port(a)) }

// isErrno reports whether err is one of the kernel's errors listed.
func isErrno(err error, want ...syscall.Errno) bool {
	for _, w := range want {
		if err != nil && errors.Is(err, w) {
			return true
		}
	}
	return false
}

// cell is one way to carry frames and segments; every one must show the same
// behaviour.
type cell struct {
	name  string
	flags []string
}

// cells lists the ways that the helper under test has.
func cells() []cell {
	var all []cell
	for _, mtu := range []string{"1500", "65520"} {
		all = append(all, cell{"MTU" + mtu, []string{"--mtu=" + mtu}})
		if !env.Product {
			continue
		}
		all = append(all,
			cell{"MTU" + mtu + "/queues", []string{"--mtu=" + mtu, "--queues=3"}},
			cell{"MTU" + mtu + "/noOffload", []string{"--mtu=" + mtu, "--no-offload"}})
	}
	return all
}

// eachCell runs f for every way and both families. The ways run in parallel.
func eachCell(t *testing.T, f func(*testing.T, *world, family), flags ...string) {
	for _, c := range cells() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := serve(t, append(flags, c.flags...)...)
			eachFamily(t, func(t *testing.T, fam family) { f(t, w, fam) })
		})
	}
}

// alone runs f for both families with nothing beside it: for what is measured in
// milliseconds.
func alone(t *testing.T, f func(*testing.T, *world, family)) {
	w := serve(t, "--mtu=65520")
	eachFamily(t, func(t *testing.T, fam family) { f(t, w, fam) })
}

// runtimePoller is the epoll instance and the eventfd that the Go runtime opens
// when it first needs them.
const runtimePoller = 2

// backTo waits until the helper holds no more sockets and descriptors than
// before, its stock apart, hardly more threads, and at most grown bytes more memory.
// It waits as long as the helper goes on giving back.
func (w *world) backTo(t testing.TB, before harness.Usage, grown int64) {
	t.Helper()
	const step = 1 << 20 // bytes less than this are no progress
	for last := w.usage(t); ; {
		back := false
		eventually(t, deadline, func() error {
			now, err := w.helper.Usage()
			if err != nil {
				return err
			}
			// Threads are the runtime's to keep; only growth with load is a leak.
			back = now.Sockets <= before.Sockets+w.stock && now.FDs <= before.FDs+runtimePoller+w.stock && now.Threads <= before.Threads+8 && now.RSS <= before.RSS+grown
			if back || now.FDs < last.FDs || now.RSS < last.RSS-step {
				last = now
				return nil
			}
			return fmt.Errorf("the helper holds %+v, before %+v", now, before)
		})
		if back {
			return
		}
	}
}

// saysOnce waits until a helper has written a text to stderr, which comes by a pipe, and
// fails if that is there more than once.
func saysOnce(t testing.TB, h *harness.Helper, text string) {
	t.Helper()
	eventually(t, deadline, func() error {
		if n := strings.Count(h.Stderr.String(), text); n != 1 {
			return fmt.Errorf("%q is said %d times:\n%s", text, n, h.Stderr)
		}
		return nil
	})
}

func (w *world) usage(t testing.TB) harness.Usage {
	t.Helper()
	return must(w.helper.Usage())(t)
}
