package tap

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
)

func open(t *testing.T, cfg Config) *Device {
	t.Helper()
	d, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestOpen_ByPID(t *testing.T) {
	g := newGuest(t, nesting{})
	d := open(t, Config{Target: Target{PID: g.pid}, Name: "tap0"})
	if !d.VNetHdr() || !d.Offload() {
		t.Errorf("no offloads: %+v", infoOf(d))
	}
	if d.Name() != "tap0" {
		t.Errorf("name %q", d.Name())
	}
	link := g.link("tap0")
	if !link.Exists || link.Up || link.LoopbackUp || link.Persistent {
		t.Errorf("without Configure the namespace must stay as it is: %+v", link)
	}
	if mac := d.HardwareAddr(); net.HardwareAddr(mac[:]).String() != link.MAC {
		t.Errorf("MAC %x, inside %s", mac, link.MAC)
	}
	flags, err := unix.FcntlInt(uintptr(d.FD()), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("file flags %#x, %v: want O_NONBLOCK", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(d.FD()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("fd flags %#x, %v: want FD_CLOEXEC", flags, err)
	}
}

func TestOpen_ByPath(t *testing.T) {
	for _, tt := range []struct {
		name   string
		target func(g *guest) Target
	}{
		{"owner asked of the kernel", func(g *guest) Target { return Target{NetNS: g.path("net")} }},
		{"owner given", func(g *guest) Target { return Target{NetNS: g.path("net"), UserNS: g.path("user")} }},
		{"our own given as owner", func(g *guest) Target { return Target{NetNS: g.path("net"), UserNS: "/proc/self/ns/user"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, nesting{})
			open(t, Config{Target: tt.target(g), Name: "tap0"})
			if !g.link("tap0").Exists {
				t.Error("no device inside")
			}
		})
	}
}

// A program that is root in a user namespace, as podman is, serves a network
// namespace that this user namespace owns.
func TestOpen_InsideTheOwner(t *testing.T) {
	g := newGuest(t, nesting{})
	inner := g.do(command{Do: "nest", Nested: nesting{SameUser: true}}).PID
	netns, userns := fmt.Sprintf("/proc/%d/ns/net", inner), fmt.Sprintf("/proc/%d/ns/user", inner)
	for name, target := range map[string]Target{
		"pid":                {PID: inner},
		"path":               {NetNS: netns},
		"path and user":      {NetNS: netns, UserNS: userns},
		"our own namespaces": {PID: g.pid},
		"our own, by path":   {NetNS: "/proc/self/ns/net"},
	} {
		a := g.do(command{Do: "open", Config: Config{Target: target, Name: "tap1", Configure: &Network{MTU: 1500}}})
		if a.Device.Name != "tap1" || !a.Device.Offload {
			t.Errorf("%s: %+v", name, a.Device)
		}
	}
	if g.link("tap1").Exists {
		t.Error("the device must vanish with its descriptor")
	}
}

func TestOpen_Nested(t *testing.T) {
	g := newGuest(t, nesting{})
	inner := g.do(command{Do: "nest", Nested: nesting{}}).PID
	netns := fmt.Sprintf("/proc/%d/ns/net", inner)
	for name, target := range map[string]Target{"pid": {PID: inner}, "path": {NetNS: netns}} {
		cfg := Config{Target: target, Name: "tap0", Configure: network()}
		if a := g.do(command{Do: "open", Config: cfg}); !a.Device.Offload {
			t.Errorf("%s, from one level above: %+v", name, a.Device)
		}
		d, err := Open(t.Context(), cfg)
		if err != nil {
			t.Errorf("%s, from two levels above: %v", name, err)
			continue
		}
		d.Close()
	}
}

// A process may live in a user namespace below the one that owns its network.
func TestOpen_OwnerAboveTheProcess(t *testing.T) {
	g := newGuest(t, nesting{})
	a := g.do(command{Do: "nest", Nested: nesting{KeepNet: true}})
	open(t, Config{Target: Target{PID: a.PID}, Name: "tap0"})
	if !g.link("tap0").Exists {
		t.Error("no device in the network namespace that both share")
	}
}

// A user namespace may map no root.
func TestOpen_NoRootInside(t *testing.T) {
	g := newGuest(t, nesting{UID: 1000})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	if !g.link("tap0").Up {
		t.Error("not configured")
	}
}

func TestOpen_Configure(t *testing.T) {
	g := newGuest(t, nesting{})
	d := open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	want := linkInfo{
		Exists: true, Up: true, LoopbackUp: true, MTU: 65520, MAC: "02:01:02:03:04:05",
		Addrs: []string{"10.0.2.100/24"}, Routes: []string{"default via 10.0.2.2"}, TSO: true,
	}
	if diff := cmp.Diff(want, g.link("tap0")); diff != "" {
		t.Error("inside (-want +got):\n", diff)
	}
	if want := [6]byte{2, 1, 2, 3, 4, 5}; d.HardwareAddr() != want {
		t.Errorf("hardware address %x", d.HardwareAddr())
	}
	// A default route of somebody else is not taken over.
	_, err := Open(t.Context(), Config{Target: Target{PID: g.pid}, Name: "tap1", Configure: network()})
	wantError(t, err, unix.EEXIST, "cannot set default route", "has one already, via 10.0.2.2")
	if g.link("tap1").Exists {
		t.Error("a failed Open left its device")
	}
}

func TestOpen_NamePattern(t *testing.T) {
	g := newGuest(t, nesting{})
	a := open(t, Config{Target: Target{PID: g.pid}, Name: "tap%d", Configure: &Network{MTU: 1400}})
	b := open(t, Config{Target: Target{PID: g.pid}, Name: "tap%d", NoOffload: true, Configure: &Network{MTU: 1300}})
	if a.Name() != "tap0" || b.Name() != "tap1" {
		t.Errorf("names %s, %s", a.Name(), b.Name())
	}
	if m, n := g.link("tap0").MTU, g.link("tap1").MTU; m != 1400 || n != 1300 {
		t.Errorf("MTU %d, %d", m, n)
	}
}

func TestOpen_NoOffload(t *testing.T) {
	g := newGuest(t, nesting{})
	d := open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", NoOffload: true, Configure: network()})
	if d.VNetHdr() || d.Offload() || d.USO() {
		t.Errorf("offloads: %+v", infoOf(d))
	}
	exchangeARP(t, d)
}

func TestOpen_Frames(t *testing.T) {
	g := newGuest(t, nesting{})
	exchangeARP(t, open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()}))
}

func TestOpen_ExistingDevice(t *testing.T) {
	for _, add := range []string{"add", "add-mq"} {
		t.Run(add, func(t *testing.T) {
			g := newGuest(t, nesting{})
			g.do(command{Do: add, Name: "tap0"})
			for _, plain := range []bool{false, true, false} {
				d, err := Open(t.Context(), Config{Target: Target{PID: g.pid}, Name: "tap0", NoOffload: plain, Configure: network()})
				if err != nil {
					t.Fatalf("NoOffload %v: %v", plain, err)
				}
				if d.VNetHdr() == plain || d.Offload() == plain {
					t.Errorf("NoOffload %v: %+v", plain, infoOf(d))
				}
				exchangeARP(t, d)
				if link := g.link("tap0"); link.TSO == plain {
					t.Errorf("NoOffload %v: %+v", plain, link)
				}
				d.Close()
				if link := g.link("tap0"); !link.Exists || !link.Persistent || link.TSO {
					t.Fatalf("the caller's device must outlive us, as it was: %+v", link)
				}
			}
			// What a killed predecessor left must not reach a reader that
			// has no header to see it by.
			cfg := Config{Target: Target{PID: g.pid}, Name: "tap0"}
			d, err := Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(d.FD())
			cfg.NoOffload = true
			open(t, cfg)
			if g.link("tap0").TSO {
				t.Error("segmentation offload without a header")
			}
		})
	}
}

// A device of Make's is complete when it is attached to, and goes with us if it
// shall.
func TestMake(t *testing.T) {
	for _, queues := range []int{1, 2} {
		g := newGuest(t, nesting{})
		cfg := Config{Target: Target{PID: g.pid}, Name: "tap0", Queues: queues, Configure: network(), Transient: true}
		g.do(command{Do: "make", Name: "tap0", Config: cfg})
		if link := g.link("tap0"); !link.Persistent || link.MultiQueue != (queues > 1) {
			t.Errorf("made for %d queues: %+v", queues, link)
		}
		d := open(t, cfg)
		if !d.Offload() || len(d.Queues()) != queues {
			t.Errorf("%d queues, of %d: %+v", len(d.Queues()), queues, infoOf(d))
		}
		exchangeARPBy(t, d, d.Queues()...)
		d.Close()
		if g.link("tap0").Exists {
			t.Error("the device is left")
		}
	}
	g := newGuest(t, nesting{})
	g.do(command{Do: "make", Name: "tap0"})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0"})
	if a := g.try(command{Do: "make", Name: "tap0"}); !strings.Contains(a.Err, "make TAP tap0: device or resource busy (another program is attached to tap0") {
		t.Errorf("a device in use: %q", a.Err)
	}
}

func BenchmarkOpen(b *testing.B) {
	cmd, _, _, err := startGuest(nesting{})
	testnet.NeedNamespaces(b, err)
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	cfg := Config{Target: Target{PID: cmd.Process.Pid}, Name: "tap0", Configure: network()}
	for b.Loop() {
		d, err := Open(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer() // the kernel takes longer to remove a device
		d.Close()
		b.StartTimer()
	}
}
