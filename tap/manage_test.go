package tap

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// opener is another process of ours, in the host's namespaces, that opens devices,
// starts agents and passes their descriptors.
type opener struct {
	*guest
	sock *net.UnixConn // where they come
}

func newOpener(t *testing.T) *opener {
	t.Helper()
	at := &net.UnixAddr{Net: "unixgram", Name: t.TempDir() + "/sock"}
	sock, err := net.ListenUnixgram(at.Net, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sock.Close() })
	return &opener{newProcess(t, nesting{SameUser: true, KeepNet: true}), sock}
}

// pass gives a command that makes it pass a descriptor, and returns that with the
// answer.
func (o *opener) pass(do string, cfg Config) (fd int, a answerTo) {
	o.t.Helper()
	a = o.do(command{Do: do, Name: o.sock.LocalAddr().String(), Config: cfg})
	file, err := o.sock.File()
	if err != nil {
		o.t.Fatal(err)
	}
	defer file.Close()
	_, fds, err := receiveMessage(int(file.Fd()), 1, 1, 0)
	if err != nil || len(fds) != 1 {
		o.t.Fatalf("received %v, %v", fds, err)
	}
	return fds[0], a
}

// passFD is its side of pass.
func passFD(to string, fd int) error {
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	return unix.Sendmsg(sock, []byte{0}, unix.UnixRights(fd), &unix.SockaddrUnix{Name: to}, 0)
}

// adopt is a process that goes on with the descriptor.
func (o *opener) adopt(fd int) *Device {
	o.t.Helper()
	d, err := Open(o.t.Context(), Config{Target: Target{FD: fd}})
	if err != nil {
		o.t.Fatal(err)
	}
	return d
}

// One process opens the device, another serves it, and it is configured when its
// address is known. Either may end first, and a third go on.
func TestOpen_PassedToAnotherProcess(t *testing.T) {
	for _, tt := range []struct {
		name       string
		persistent bool
	}{{"new", false}, {"persistent", true}} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, nesting{})
			if tt.persistent {
				g.do(command{Do: "add", Name: "eth0"})
			}
			o := newOpener(t)
			fd, a := o.pass("open and pass", Config{Target: Target{PID: g.pid}, Name: "eth0"})
			defer unix.Close(fd)
			d := o.adopt(fd)
			if got := infoOf(d); got != a.Device || !got.VNetHdr || !got.Offload {
				t.Errorf("adopted as %+v, opened as %+v", got, a.Device)
			}
			if _, err := Configure(t.Context(), Target{NetNS: g.path("net")}, "eth0", *network()); err != nil {
				t.Fatal(err)
			}
			exchangeARPAt(t, [6]byte(network().MAC), d, d)
			served := g.link("eth0")
			if !served.Up || !served.TSO || served.Persistent != tt.persistent {
				t.Errorf("served: %+v", served)
			}

			// The one that serves ends in good order, and a successor takes over.
			d.Close()
			if diff := cmp.Diff(served, g.link("eth0")); diff != "" {
				t.Error("after Close in one process (-want +got):\n", diff)
			}
			d = o.adopt(fd)
			exchangeARPAt(t, [6]byte(network().MAC), d, d)

			// The one that opened it is killed.
			if err := unix.Kill(o.pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitExit(t, o.pid)
			if diff := cmp.Diff(served, g.link("eth0")); diff != "" {
				t.Error("after a kill of the other (-want +got):\n", diff)
			}
			exchangeARPAt(t, [6]byte(network().MAC), d, d)

			d.Close()
			unix.Close(fd)
			if exists := g.link("eth0").Exists; exists != tt.persistent {
				t.Errorf("after the last copy has gone, it exists: %v", exists)
			}
		})
	}
}

// awaitExit waits until a process of ours holds nothing anymore; somebody else
// reaps it.
func awaitExit(t *testing.T, pid int) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if !ready(t, pidfd, unix.POLLIN, patience) {
		t.Fatalf("process %d does not end", pid)
	}
}

// The one that opened it closes it while another serves.
func TestDevice_ClosedByTheOpener(t *testing.T) {
	g := newGuest(t, nesting{})
	o := newOpener(t)
	fd, _ := o.pass("open and pass", Config{Target: Target{PID: g.pid}, Name: "eth0", Configure: network()})
	defer unix.Close(fd)
	d := o.adopt(fd)
	defer d.Close()
	served := g.link("eth0")
	o.do(command{Do: "close"})
	if diff := cmp.Diff(served, g.link("eth0")); diff != "" {
		t.Error("(-want +got):\n", diff)
	}
	exchangeARPAt(t, [6]byte(network().MAC), d, d)
}

func TestConfigure(t *testing.T) {
	g := newGuest(t, nesting{})
	first := open(t, Config{Target: Target{PID: g.pid}, Name: "eth0"})
	if link := g.link("eth0"); link.Up {
		t.Errorf("before: %+v", link)
	}
	want := linkInfo{
		Exists: true, Up: true, LoopbackUp: true, MTU: 65520, MAC: "02:01:02:03:04:05",
		Addrs: []string{"10.0.2.100/24"}, Routes: []string{"default via 10.0.2.2"}, TSO: true,
	}
	n := *network()
	n.Address6, n.Gateway6 = netip.MustParsePrefix("fd00::100/64"), netip.MustParseAddr("fd00::2")
	for range 2 { // a second time changes nothing
		ipv6, err := Configure(t.Context(), Target{PID: g.pid}, "eth0", n)
		if err != nil || !ipv6 {
			t.Fatalf("IPv6 %v, %v", ipv6, err)
		}
		if diff := cmp.Diff(want, g.link("eth0")); diff != "" {
			t.Error("inside (-want +got):\n", diff)
		}
	}
	exchangeARPAt(t, [6]byte(n.MAC), first, first)

	// A second network need not have a default route.
	open(t, Config{Target: Target{PID: g.pid}, Name: "eth1"})
	if _, err := Configure(t.Context(), Target{PID: g.pid}, "eth1", Network{Address: netip.MustParsePrefix("10.90.3.5/24"), MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	if link := g.link("eth1"); !link.Up || link.MTU != 1500 || link.Addrs[0] != "10.90.3.5/24" || len(link.Routes) > 0 {
		t.Errorf("the second: %+v", link)
	}
	// One that shares the namespace comes after the first, where both have one.
	open(t, Config{Target: Target{PID: g.pid}, Name: "eth2"})
	shared := Network{
		Address: netip.MustParsePrefix("10.90.4.5/24"), Gateway: netip.MustParseAddr("10.90.4.1"),
		Address6: netip.MustParsePrefix("fd90:0:0:4::5/64"), Gateway6: netip.MustParseAddr("fd90:0:0:4::1"),
	}
	_, err := Configure(t.Context(), Target{PID: g.pid}, "eth2", shared)
	wantError(t, err, unix.EEXIST, "cannot set default route", "via 10.0.2.2")
	shared.Shared = true
	for range 2 { // a second time changes nothing
		if _, err := Configure(t.Context(), Target{PID: g.pid}, "eth2", shared); err != nil {
			t.Fatal(err)
		}
		if link := g.link("eth2"); !slices.Equal(link.Routes, []string{"default via 10.90.4.1"}) {
			t.Errorf("the third: %+v", link)
		}
	}
	if diff := cmp.Diff(want, g.link("eth0")); diff != "" {
		t.Error("the first (-want +got):\n", diff)
	}
}

func TestConfigure_Errors(t *testing.T) {
	g := newGuest(t, nesting{})
	open(t, Config{Target: Target{PID: g.pid}, Name: "eth0"})
	in := Target{PID: g.pid}
	try := func(ctx context.Context, target Target, name string, n Network) error {
		_, err := Configure(ctx, target, name, n)
		return err
	}
	wantError(t, try(t.Context(), in, "eth7", Network{}), unix.ENODEV, "configure TAP", "cannot find eth7")
	wantError(t, try(t.Context(), in, "eth0", Network{MTU: 1}), unix.EINVAL, "cannot set MTU", "68 to 65521")
	wantError(t, try(t.Context(), Target{NetNS: "/nonexistent"}, "eth0", Network{}), unix.ENOENT, "/nonexistent")
	for name, err := range map[string]error{
		"no name":          try(t.Context(), in, "", Network{}),
		"a bad name":       try(t.Context(), in, "a/b", Network{}),
		"half a MAC":       try(t.Context(), in, "eth0", Network{MAC: net.HardwareAddr{2, 2}}),
		"no target":        try(t.Context(), Target{}, "eth0", Network{}),
		"a descriptor":     try(t.Context(), Target{FD: 3}, "eth0", Network{}),
		"an ended context": try(ended(t), in, "eth0", *network()),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if link := g.link("eth0"); link.Up {
		t.Errorf("a failed Configure has changed it: %+v", link)
	}
}

func ended(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestRemove(t *testing.T) {
	g := newGuest(t, nesting{})
	g.do(command{Do: "add", Name: "tap0"})
	held := open(t, Config{Target: Target{PID: g.pid}, Name: "tap1"})
	for _, name := range []string{"tap0", "tap1"} {
		for range 2 { // there is none the second time
			if err := Remove(t.Context(), Target{NetNS: g.path("net")}, name); err != nil {
				t.Error(err)
			}
			if g.link(name).Exists {
				t.Errorf("%s is left", name)
			}
		}
	}
	if _, errno := held.Readv(iovec(make([]byte, 100))); errno != unix.EBADFD {
		t.Errorf("read: %v, want EBADFD", errno)
	}
	wantError(t, Remove(t.Context(), Target{PID: g.pid}, "lo"), unix.EINVAL, "remove lo", "not a TAP")
	wantError(t, Remove(t.Context(), Target{PID: g.pid}, "tap0/"), 0, "not a valid interface name")
	if err := Remove(ended(t), Target{PID: g.pid}, "tap0"); err == nil {
		t.Error("an ended context: no error")
	}
	wantError(t, Remove(t.Context(), Target{NetNS: t.TempDir() + "/gone"}, "tap0"), unix.ENOENT, "/gone")
}
