package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// TestB1_ReadyMeansConfigured: nothing is waited for after the ready byte.
func TestB1_ReadyMeansConfigured(t *testing.T) {
	for _, mtu := range []int{1500, 65520} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			g := newGuest(t)
			attach(t, g, harness.HelperConfig{}, fmt.Sprint("--mtu=", mtu))
			if err := g.Do(func() error {
				for _, name := range []string{"lo", tapName} {
					l, err := netlink.LinkByName(name)
					if err != nil {
						return err
					}
					if l.Attrs().Flags&net.FlagUp == 0 {
						t.Errorf("%s is down", name)
					}
					if got := l.Attrs().MTU; name == tapName && got != mtu {
						t.Errorf("MTU of %s is %d, want %d", name, got, mtu)
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			addr, err := g.Address(tapName, unix.AF_INET)
			if err != nil || addr.String() != guest4 {
				t.Errorf("address at ready: %v, %v, want %s and a default route", addr, err, guest4)
			}
			addrTCP := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
			c, err := g.Dial(timeout(t, deadline), "tcp4", addrTCP.String())
			if err != nil {
				t.Fatalf("connect at ready: %v", err)
			}
			c.Close()
		})
	}
}

// TestB1_IPv6AddressAtReady: podman's first command in a container already
// shows an address, without duplicate address detection.
func TestB1_IPv6AddressAtReady(t *testing.T) {
	g := newGuest(t)
	attach(t, g, harness.HelperConfig{}, "-6")
	soon(t, 2*time.Second, func() error {
		_, err := g.Address(tapName, unix.AF_INET6)
		return err
	})
}

// TestStartIsQuick: from exec to ready takes no more than some times what the same
// program takes to print its version, so that a busy machine slows both. It is three to four
// times that, and has been six, as it takes several processes and threads to their turn; a wait
// for anything would be many more. How fast it is the benchmark says (ROWS=start).
func TestStartIsQuick(t *testing.T) {
	ours(t, "its start")
	var took, version []time.Duration
	for range 20 {
		t.Run("", func(t *testing.T) {
			begin := time.Now()
			if err := exec.CommandContext(t.Context(), env.Binary, "--version").Run(); err != nil {
				t.Fatal(err)
			}
			version = append(version, time.Since(begin))
			took = append(took, attach(t, newGuest(t), harness.HelperConfig{}, "--mtu=65520").Ready)
		})
	}
	m, v := median(took), median(version)
	t.Logf("exec to ready: median %v, --version: %v", m, v)
	if m > 15*v {
		t.Errorf("exec to ready takes %v, and --version %v", took, version)
	}
}

// TestB2_FailureIsOneLineAndNothingLeft: cause on stderr, exit status 1, no
// ready byte, no interface.
func TestB2_FailureIsOneLineAndNothingLeft(t *testing.T) {
	for name, c := range map[string]struct {
		args func(*harness.Guest) []string
		says string
	}{
		"no such process": {func(*harness.Guest) []string { return []string{"4194304", tapName} }, "4194304"},
		"no such path": {func(*harness.Guest) []string {
			return []string{"--netns-type=path", "/nonexistent/netns", tapName}
		}, "No such file or directory"},
		"not ours": {func(*harness.Guest) []string { return []string{fmt.Sprint(os.Getppid()), tapName} }, "ermission"},
		"bad address plan": {func(g *harness.Guest) []string {
			return []string{"--cidr=10.0.2.100/24", fmt.Sprint(g.PID), tapName}
		}, "CIDR needs to be a network address"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			begin := time.Now()
			h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
				Args:   append([]string{"-c", "-r", harness.ReadyFD}, c.args(g)...),
				NoWait: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Kill()
			code, sig, err := h.Exit(timeout(t, deadline))
			took := time.Since(begin)
			if err != nil || code != 1 {
				t.Errorf("exit status %d, signal %v, %v, want 1", code, sig, err)
			}
			if err := h.WaitReady(timeout(t, time.Second)); err == nil {
				t.Error("the ready byte was written")
			}
			if late(t, took, time.Second) {
				t.Errorf("failed only after %v", took)
			}
			said := strings.TrimSpace(h.Stderr.String())
			if env.Product && (!strings.Contains(said, c.says) || strings.Contains(said, "\n")) {
				t.Errorf("said %q, want one line with %q", said, c.says)
			}
			if links, err := g.Links(); err != nil || len(links) > 0 {
				t.Errorf("left behind in the guest: %v, %v", links, err)
			}
		})
	}
}

// TestB2_BusyTAPFails after the time that a dying predecessor is given.
func TestB2_BusyTAPFails(t *testing.T) {
	g := newGuest(t)
	attach(t, g, harness.HelperConfig{})
	begin := time.Now()
	_, err := env.Start(timeout(t, deadline), harness.HelperConfig{Args: []string{"-c", "-r", harness.ReadyFD, fmt.Sprint(g.PID), tapName}})
	if took := time.Since(begin); err == nil || late(t, took, 3*time.Second) {
		t.Errorf("a second helper on the same TAP: %v after %v", err, took)
	}
}

// TestB3_VanishedTAPEndsIt within a second, said once, with a failure.
func TestB3_VanishedTAPEndsIt(t *testing.T) {
	ours(t, "end when its TAP vanishes")
	w := serve(t)
	if err := w.Do(func() error {
		l, err := netlink.LinkByName(tapName)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	code, sig, err := w.helper.Exit(timeout(t, deadline))
	if took := time.Since(begin); err != nil || sig != 0 || code == 0 || late(t, took, time.Second) {
		t.Errorf("exit status %d, signal %v, %v after %v, want a failure within 1 s", code, sig, err, took)
	}
	if lines := strings.Count(w.helper.Stderr.String(), "\n"); lines != 1 {
		t.Errorf("%d lines on stderr, want 1:\n%s", lines, w.helper.Stderr)
	}
}

// TestB4_KilledLeavesTheNamespaceReusable: the TAP goes with the process, and a
// new helper starts at once.
func TestB4_KilledLeavesTheNamespaceReusable(t *testing.T) {
	g := newGuest(t)
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	for range 5 {
		h := attach(t, g, harness.HelperConfig{})
		c, err := g.Dial(timeout(t, deadline), "tcp4", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		h.Kill()
	}
}

// TestB4_RestartWhileThePredecessorDies: the next helper is started before the
// last one has gone, as a restart policy does.
func TestB4_RestartWhileThePredecessorDies(t *testing.T) {
	ours(t, "patience with a busy TAP")
	g := newGuest(t)
	last := attach(t, g, harness.HelperConfig{})
	for range 5 {
		begun := make(chan struct{})
		go func() {
			defer close(begun)
			<-time.After(100 * time.Millisecond) // the overlap under test
			last.Kill()
		}()
		next := attach(t, g, harness.HelperConfig{})
		<-begun
		last = next
	}
}

// TestB6_TerminatedUnderLoad is gone within 200 ms.
func TestB6_TerminatedUnderLoad(t *testing.T) {
	for name, end := range map[string]func(*harness.Helper) error{
		"SIGTERM": func(h *harness.Helper) error { return h.Signal(unix.SIGTERM) },
		"exit fd": (*harness.Helper).CloseExitFD,
	} {
		t.Run(name, func(t *testing.T) {
			w := serve(t, "--mtu=65520")
			moved := make(chan struct{}, 1)
			addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", func(c *net.TCPConn) {
				b := make([]byte, 1<<20)
				for total := 0; ; {
					n, err := c.Read(b)
					if total += n; total > 16<<20 {
						select {
						case moved <- struct{}{}:
						default:
						}
					}
					if err != nil {
						return
					}
				}
			})
			var writers []chan struct{}
			for range 4 {
				c := w.dial(t, "tcp4", addr.String())
				done := make(chan struct{})
				writers = append(writers, done)
				go func() {
					defer close(done)
					_, _ = io.Copy(c, zeros{})
				}()
				defer c.Close()
			}
			<-moved
			begin := time.Now()
			if err := end(w.helper); err != nil {
				t.Fatal(err)
			}
			code, sig, err := w.helper.Exit(timeout(t, deadline))
			if took := time.Since(begin); err != nil || late(t, took, 2*time.Second) {
				t.Errorf("gone after %v, %v, want at once", took, err)
			}
			if name == "exit fd" && code != 0 || name == "SIGTERM" && sig != unix.SIGTERM && code != 0 && code != 128+int(unix.SIGTERM) {
				t.Errorf("exit status %d, signal %v", code, sig)
			}
			for _, done := range writers {
				t.Cleanup(func() { <-done })
			}
		})
	}
}

// zeros is an endless stream.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestExitFDThatIsNotOpen ends the helper with status 0 after it was ready, as
// slirp4netns's own tests rely on.
func TestExitFDThatIsNotOpen(t *testing.T) {
	g := newGuest(t)
	h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
		Args: []string{"-c", "-r", harness.ReadyFD, "-e", "99", fmt.Sprint(g.PID), tapName},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Kill()
	if code, sig, err := h.Exit(timeout(t, deadline)); err != nil || code != 0 {
		t.Errorf("exit status %d, signal %v, %v, want 0", code, sig, err)
	}
}

// TestB7_StartsWithoutANetwork and works when there is one later.
func TestB7_StartsWithoutANetwork(t *testing.T) {
	host := must(env.NewNS())(t)
	t.Cleanup(func() { host.Close() })
	w := serveWith(t, harness.HelperConfig{Host: host})
	if c, err := w.Dial(timeout(t, deadline), "tcp4", harness.NetIPv4+":80"); !isErrno(err, unix.ENETUNREACH, unix.EHOSTUNREACH) {
		t.Errorf("connect without a network gave %v, %v", c, err)
	}
	if err := host.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}); err != nil {
		t.Fatal(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		addr := serveTCP(t, host, "tcp"+f.v, net.JoinHostPort(f.loop, "0"), echoTCP)
		w.dial(t, "tcp"+f.v, hostPort(f.gateway, addr))
	})
}

// TestB7_WithoutIPv6: -6 is passed by callers that do not know the kernel.
func TestB7_WithoutIPv6(t *testing.T) {
	for name, where := range map[string]func(host, guest *harness.NetNS) *harness.NetNS{
		"on the host":  func(h, _ *harness.NetNS) *harness.NetNS { return h },
		"in the guest": func(_, g *harness.NetNS) *harness.NetNS { return g },
	} {
		t.Run(name, func(t *testing.T) {
			host := must(env.NewNS())(t)
			t.Cleanup(func() { host.Close() })
			g := newGuest(t)
			for _, conf := range []string{"all", "default"} {
				if err := where(host, g.NetNS).Sysctl("net/ipv6/conf/"+conf+"/disable_ipv6", "1"); err != nil {
					t.Fatal(err)
				}
			}
			if err := host.Do(func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				return netlink.LinkSetUp(lo)
			}); err != nil {
				t.Fatal(err)
			}
			w := &world{Guest: g, helper: attach(t, g, harness.HelperConfig{Host: host}, "-6")}
			addr := serveTCP(t, host, "tcp4", "127.0.0.1:0", echoTCP)
			w.dial(t, "tcp4", hostPort(gateway4, addr))
		})
	}
}

// TestB9_OddSurroundings: closed standard streams, a deleted directory, a
// read-only root, and in all cases a nested user namespace.
func TestB9_OddSurroundings(t *testing.T) {
	for name, cfg := range map[string]harness.HelperConfig{
		"closed streams":    {Wrap: []string{"sh", "-c", `exec "$0" "$@" 0<&- 1>&- 2>&-`}},
		"deleted directory": {Wrap: []string{"sh", "-c", `d=$(mktemp -d) && cd "$d" && rmdir "$d" && exec "$0" "$@"`}},
		"empty environment": {Wrap: []string{"env", "-i"}},
		"read-only root":    {ReadOnly: true, Wrap: []string{"sh", "-c", `grep -Eq '^[^ ]+ / [^ ]+ ro[ ,]' /proc/self/mounts || exit 9; exec "$0" "$@"`}},
	} {
		t.Run(name, func(t *testing.T) {
			w := serveWith(t, cfg)
			addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
			c := w.dial(t, "tcp4", addr.String())
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestTargets: the namespaces are found by process, by path, and by a TAP that
// somebody else has opened.
func TestTargets(t *testing.T) {
	for name, args := range map[string]func(*harness.Guest) []string{
		"path with user namespace": func(g *harness.Guest) []string {
			return []string{"--netns-type=path", fmt.Sprintf("--userns-path=/proc/%d/ns/user", g.PID), fmt.Sprintf("/proc/%d/ns/net", g.PID), tapName}
		},
		"stray third argument": func(g *harness.Guest) []string { return []string{fmt.Sprint(g.PID), tapName, "stray"} },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			h, err := env.Start(ctx, harness.HelperConfig{Args: append([]string{"-c", "-r", harness.ReadyFD}, args(g)...)})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Kill()
			addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
			(&world{Guest: g, helper: h}).dial(t, "tcp4", addr.String())
		})
	}
}

// TestPersistentTAPIsAttachedAndStays: RootlessKit makes and configures the
// device itself, and it outlives the helper.
func TestPersistentTAPIsAttachedAndStays(t *testing.T) {
	oneQueue(t)
	g := newGuest(t)
	if err := g.Do(func() error {
		tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: tapName}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI,
			Owner: uint32(os.Getuid()), Group: uint32(os.Getgid())}
		if err := netlink.LinkAdd(tap); err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(guest4 + "/24")
		if err != nil {
			return err
		}
		l, err := netlink.LinkByName(tapName)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gateway4)})
	}); err != nil {
		t.Fatal(err)
	}
	h, err := env.Start(timeout(t, deadline), harness.HelperConfig{Args: []string{"--mtu", "65520", "-r", harness.ReadyFD, fmt.Sprint(g.PID), tapName}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Kill()
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
	(&world{Guest: g, helper: h}).dial(t, "tcp4", addr.String()).Close()
	h.Kill()
	if links, err := g.Links(); err != nil || len(links) != 1 {
		t.Errorf("links after the helper's end: %v, %v, want the persistent TAP", links, err)
	}
}
