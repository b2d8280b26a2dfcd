package hostnet

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// envInside marks the test program in a network namespace of its own.
const envInside = "HOSTNET_TEST_INSIDE"

// nobody is whom the tests run as when started by root.
const nobody = 65534

// inside runs the calling test once more, as a plain user in a user and a network
// namespace of its own, and reports whether this is that run.
func inside(t *testing.T) bool {
	if os.Getenv(envInside) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), envInside+"=1")
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = nobody, nobody
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
		Credential:  &syscall.Credential{NoSetGroups: true},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return false
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// addLink makes an interface that is up, and its other end, which has no address.
func addLink(name string) error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-end"}); err != nil {
		return err
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// The host's main addresses are those of the moment: none at first, then those that its
// default route leads by, wherever it leads, until they are gone again.
func TestMainFollows(t *testing.T) {
	if !inside(t) {
		return
	}
	w, err := Open(Config{})
	must(t, err)
	s, err := shard.New(shard.Config{})
	must(t, err, w.Attach(s))
	defer func() { must(t, s.Close(), w.Close()) }()
	expect := func(when, v4, v6 string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; must(t, s.Turn(lookEvery)) {
			got4, got6 := w.Main(false), w.Main(true)
			if got4 == addr(v4) && got6 == addr(v6) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v and %v, want %q and %q", when, got4, got6, v4, v6)
			}
		}
	}
	link := func(name string) netlink.Link {
		l, err := netlink.LinkByName(name)
		must(t, err)
		return l
	}
	change := func(do func(netlink.Link, *netlink.Addr) error, name, cidr string) {
		t.Helper()
		a, err := netlink.ParseAddr(cidr)
		must(t, err)
		a.Flags = unix.IFA_F_NODAD
		must(t, do(link(name), a))
	}
	// More than the socket has room for, and what matters to nobody.
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		dst, err := netlink.ParseIPNet(netip.PrefixFrom(a, 32).String())
		must(t, err)
		if i == 0 {
			must(t, netlink.LinkSetUp(link("lo")))
		}
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: 1, Dst: dst}))
	}
	expect("loopback alone", "", "")
	for _, name := range []string{"a", "b"} {
		must(t, addLink(name))
	}
	change(netlink.AddrAdd, "b", "198.51.100.7/24")
	change(netlink.AddrAdd, "b", "2001:db8:3::7/64")
	expect("an address", "198.51.100.7", "2001:db8:3::7")
	change(netlink.AddrAdd, "a", "192.0.2.10/24")
	expect("a lower interface", "192.0.2.10", "2001:db8:3::7")
	route := func(name, gateway string, metric int) *netlink.Route {
		return &netlink.Route{LinkIndex: link(name).Attrs().Index, Gw: addr(gateway).AsSlice(), Priority: metric}
	}
	must(t, netlink.RouteAdd(route("b", "198.51.100.1", 600)))
	expect("a default route", "198.51.100.7", "2001:db8:3::7")
	must(t, netlink.RouteAdd(route("a", "192.0.2.1", 100)))
	expect("a better one", "192.0.2.10", "2001:db8:3::7")
	change(netlink.AddrAdd, "a", "192.0.2.99/24")
	change(netlink.AddrDel, "a", "192.0.2.10/24") // and with it the other, which comes after it
	expect("its address is gone", "198.51.100.7", "2001:db8:3::7")
	must(t, netlink.LinkDel(link("b")))
	expect("nothing is left", "", "")
}

// A Watcher with an interface of its own prefers that one's address, while it has any.
func TestMainPrefers(t *testing.T) {
	if !inside(t) {
		return
	}
	for name, cidr := range map[string]string{"a": "192.0.2.10/24", "b": "198.51.100.7/24"} {
		must(t, addLink(name))
		l, err := netlink.LinkByName(name)
		must(t, err)
		a, err := netlink.ParseAddr(cidr)
		must(t, err, netlink.AddrAdd(l, a))
	}
	for name, want := range map[string]string{"a": "192.0.2.10", "b": "198.51.100.7"} {
		w, err := Open(Config{Interface: name})
		must(t, err)
		if got := w.Main(false); got != addr(want) {
			t.Errorf("with %s the host is %v, want %s", name, got, want)
		}
		must(t, w.Close())
	}
}
