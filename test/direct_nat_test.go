package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// Where a container of the guest lives, as behind Docker's bridge.
var (
	inner     = map[string]string{"4": "172.17.0.2", "6": "fd17::2"}
	innerGate = map[string]string{"4": "172.17.0.1", "6": "fd17::1"}
	innerBits = map[string]string{"4": "/24", "6": "/64"}
	innerLink = "inner0"
	nftFamily = map[string]string{"4": "ip", "6": "ip6"}
)

// container makes a namespace behind the guest, to which the guest routes.
func (w *world) container(t testing.TB) *harness.NetNS {
	t.Helper()
	return w.containerBehind(t, tapName)
}

// containerBehind is container for a guest whose device has another name.
func (w *world) containerBehind(t testing.TB, device string) *harness.NetNS {
	t.Helper()
	ns := must(env.NewNS())(t)
	t.Cleanup(func() { ns.Close() })
	if err := w.Link(innerLink, ns, "eth0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Do(func() error {
			l, err := netlink.LinkByName(innerLink)
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		}); err != nil {
			t.Error(err)
		}
	})
	addresses := func(link string, of map[string]string) error {
		l, err := netlink.LinkByName(link)
		for v, a := range of {
			var addr *netlink.Addr
			if err == nil {
				addr, err = netlink.ParseAddr(a + innerBits[v])
			}
			if err == nil {
				addr.Flags = unix.IFA_F_NODAD
				err = netlink.AddrAdd(l, addr)
			}
		}
		return err
	}
	err := errors.Join(
		w.Do(func() error { return addresses(innerLink, innerGate) }),
		ns.Do(func() error {
			if err := addresses("eth0", inner); err != nil {
				return err
			}
			for _, gate := range innerGate {
				if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gate)}); err != nil {
					return err
				}
			}
			return nil
		}),
		w.Sysctl("net/ipv4/ip_forward", "1"),
		// A router takes no advertisements, unless told to.
		w.Sysctl("net/ipv6/conf/"+device+"/accept_ra", "2"),
		w.Sysctl("net/ipv6/conf/all/forwarding", "1"))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// TestDirectPathThroughTranslation: a guest that passes clients of a published
// port on to a container by address translation, for what comes by its device
// alone or, as Docker does, for its own connections as well. The direct path
// cannot lead there; clients arrive all the same and are seen by their address,
// the first one after a moment and the others at once.
func TestDirectPathThroughTranslation(t *testing.T) {
	t.Parallel()
	ours(t, "--publish-mode")
	nft := needs(t, "nft")
	for name, hooks := range map[string][]string{"device": {"prerouting"}, "device and own": {"prerouting", "output"}} {
		for first := range origins(families()[0]) { // whoever comes first is the one who waits
			t.Run(fmt.Sprint(name, first), func(t *testing.T) { throughTranslation(t, nft, hooks, first) })
		}
	}
}

func throughTranslation(t *testing.T, nft string, hooks []string, first int) {
	const hostPort = "18054"
	w := published(t, hostPort, "")
	ns := w.container(t)
	for _, f := range families() {
		for _, hook := range hooks {
			rules := fmt.Sprintf("add table %[1]s nat; add chain %[1]s nat %[2]s { type nat hook %[2]s priority -100; }; "+
				"add rule %[1]s nat %[2]s fib daddr type local tcp dport %[3]s dnat to %[4]s",
				nftFamily[f.v], hook, guestPort, net.JoinHostPort(inner[f.v], "80"))
			if out, err := w.Run(timeout(t, deadline), nft, rules); err != nil {
				for _, lacking := range []unix.Errno{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.ENOENT} { // of nf_tables
					if strings.Contains(strings.ToLower(string(out)), lacking.Error()) {
						t.Skipf("this kernel translates no addresses: %v: %s", err, out)
					}
				}
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	eachFamily(t, func(t *testing.T, f family) {
		serveTCP(t, ns, "tcp"+f.v, net.JoinHostPort(inner[f.v], "80"), func(c *net.TCPConn) {
			_, _ = io.WriteString(c, c.RemoteAddr().String()+"\n")
			echoTCP(c)
		})
		visit := func(o origin) {
			t.Helper()
			c := o.dial(t, f, "tcp"+f.v, net.JoinHostPort(o.to, hostPort))
			defer c.Close()
			want := net.JoinHostPort(o.seen, port(c.LocalAddr())) + "\n"
			seen := make([]byte, len(want))
			if n, err := io.ReadFull(c, seen); err != nil || string(seen) != want {
				t.Fatalf("from %s: seen as %q, %v, want %q", o.name, seen[:n], err, want)
			}
			if err := says(c, "through and through"); err != nil {
				t.Errorf("from %s: %v", o.name, err)
			}
		}
		from := origins(f)
		begin := time.Now()
		visit(from[first])
		if took := time.Since(begin); took > deadline/2 {
			t.Errorf("the first one has waited %v", took)
		}
		// Others would wait a tenth of a second each time. A busy machine lets them wait, too,
		// but not always.
		for range 5 {
			for _, o := range from {
				eventually(t, deadline, func() error {
					begin := time.Now()
					visit(o)
					if took := time.Since(begin); took > 100*time.Millisecond {
						return fmt.Errorf("from %s: another one has waited %v", o.name, took)
					}
					return nil
				})
			}
		}
	})
}
