package tap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
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
		t.Errorf("no offloads: %+v", factsOf(d))
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

// Where the user namespace maps no root, execve would drop what setns gave.
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
	want := linkFacts{
		Exists: true, Up: true, LoopbackUp: true, MTU: 65520, MAC: "02:01:02:03:04:05",
		Addrs: []string{"10.0.2.100/24"}, Routes: []string{"default via 10.0.2.2"}, MultiQueue: true, TSO: true,
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

func TestOpen_ConfigureErrors(t *testing.T) {
	g := newGuest(t, nesting{})
	for _, tt := range []struct {
		net  Network
		err  unix.Errno
		text string
	}{
		{Network{MTU: 67}, unix.EINVAL, "cannot set MTU: invalid argument"},
		{Network{MTU: 65522}, unix.EINVAL, "cannot set MTU: invalid argument"},
		{Network{MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}}, unix.EADDRNOTAVAIL, "cannot set MAC address"},
	} {
		_, err := Open(t.Context(), Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: &tt.net})
		wantError(t, err, tt.err, tt.text)
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
		t.Errorf("offloads: %+v", factsOf(d))
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
					t.Errorf("NoOffload %v: %+v", plain, factsOf(d))
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

func TestOpen_NoTAP(t *testing.T) {
	g := newGuest(t, nesting{})
	_, err := Open(t.Context(), Config{Target: Target{PID: g.pid}, Name: "lo"})
	wantError(t, err, unix.EINVAL, "attach to lo", "no TAP")
}

func TestB4_BusyDeviceIsTriedAgain(t *testing.T) {
	for add, hold := range map[string]string{"add": "hold", "add-mq": "hold-mq"} {
		t.Run(hold, func(t *testing.T) {
			g := newGuest(t, nesting{})
			g.do(command{Do: add, Name: "tap0"})
			g.do(command{Do: hold, Name: "tap0"})
			cfg := Config{Target: Target{PID: g.pid}, Name: "tap0"}

			began := time.Now()
			_, err := Open(t.Context(), cfg)
			wantError(t, err, unix.EBUSY, "another program is attached to tap0")
			if took := time.Since(began); took < busyFor || took > 3*busyFor {
				t.Errorf("gave up after %v, want about %v", took, busyFor)
			}

			p, err := Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			timer := time.NewTimer(150 * time.Millisecond)
			<-timer.C
			select {
			case <-p.done:
				t.Error("did not wait for the busy device")
			default:
			}
			g.do(command{Do: "release"})
			d, err := p.Wait()
			if err != nil {
				t.Fatal(err)
			}
			d.Close()
		})
	}
}

// A second program must not become a second queue of the first one's device.
func TestOpen_NameInUse(t *testing.T) {
	g := newGuest(t, nesting{})
	cfg := Config{Target: Target{PID: g.pid}, Name: "tap0"}
	open(t, cfg)
	_, err := Open(t.Context(), cfg)
	wantError(t, err, unix.EBUSY, "attached to tap0")
}

func TestOpen_ContextEnds(t *testing.T) {
	g := newGuest(t, nesting{})
	g.do(command{Do: "add", Name: "tap0"})
	g.do(command{Do: "hold", Name: "tap0"})
	before := children(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := Open(ctx, Config{Target: Target{PID: g.pid}, Name: "tap0"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > busyFor/2 {
		t.Errorf("took %v", took)
	}
	if kids := children(t); !slices.Equal(kids, before) {
		t.Errorf("children %v, before %v", kids, before)
	}
	p, err := Start(t.Context(), Config{Target: Target{PID: g.pid}, Name: "tap0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// The child may not keep the program busy that waits for the end of a pipe which
// kill -9 takes the child along, even one that waits for a busy device.
func TestB4_ChildGoesWithUs(t *testing.T) {
	g := newGuest(t, nesting{})
	g.do(command{Do: "add", Name: "tap0"})
	g.do(command{Do: "hold", Name: "tap0"})
	h := newProcess(t, nesting{SameUser: true, KeepNet: true})
	if err := h.in.Encode(command{Do: "open", Config: Config{Target: Target{PID: g.pid}, Name: "tap0"}}); err != nil {
		t.Fatal(err)
	}
	child := awaitChild(t, h.pid)
	pidfd, err := unix.PidfdOpen(child, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := unix.Kill(h.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !ready(t, pidfd, unix.POLLIN, 300*time.Millisecond) {
		t.Error("the child lives on")
	}
}

// The caller may wait for the end of a pipe that we inherited.
func TestOpen_ChildKeepsNoDescriptors(t *testing.T) {
	g := newGuest(t, nesting{})
	g.do(command{Do: "add", Name: "tap0"})
	g.do(command{Do: "hold", Name: "tap0"})
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	p, err := Start(t.Context(), Config{Target: Target{PID: g.pid}, Name: "tap0"})
	if err != nil {
		t.Fatal(err)
	}
	awaitChild(t, os.Getpid())
	unix.Close(pipe[1])
	if !ready(t, pipe[0], 0, 500*time.Millisecond) {
		t.Error("the child holds the pipe")
	}
	select {
	case <-p.done:
		t.Error("the child had ended already, nothing was shown")
	default:
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpen_PermissionErrors(t *testing.T) {
	g := newGuest(t, nesting{})
	gone := missingPID(t)
	for _, tt := range []struct {
		name   string
		target Target
		err    unix.Errno
		text   []string
	}{
		{"no such process", Target{PID: gone}, unix.ESRCH, []string{fmt.Sprintf("process %d: no such process", gone), "has ended"}},
		{"no such path", Target{NetNS: "/nonexistent"}, unix.ENOENT, []string{"open network namespace /nonexistent: no such file"}},
		{"no namespace", Target{NetNS: "/dev/null"}, 0, []string{"/dev/null: this is no network namespace"}},
		{"another kind", Target{NetNS: g.path("user")}, 0, []string{"this is no network namespace"}},
		{"user path of another kind", Target{NetNS: g.path("net"), UserNS: g.path("net")}, 0, []string{"this is no user namespace"}},
		{"nothing given", Target{}, 0, []string{"no target"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(t.Context(), Config{Target: tt.target, Name: "tap0"})
			wantError(t, err, tt.err, tt.text...)
		})
	}
	t.Run("our own network", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may")
		}
		_, err := Open(t.Context(), Config{Target: Target{PID: os.Getpid()}, Name: "tap0"})
		wantError(t, err, unix.EPERM, "TUNSETIFF", "unshare -Urn")
	})
	t.Run("another user's namespaces", func(t *testing.T) {
		if os.Getenv(envForeign) == "" {
			t.Skip("takes root to set up")
		}
		_, err := Open(t.Context(), Config{Target: Target{NetNS: foreignUserNet}, Name: "tap0"})
		wantError(t, err, unix.EPERM, "setns(CLONE_NEWUSER): operation not permitted", "belongs to user 0 and we are user")
		_, err = Open(t.Context(), Config{Target: Target{NetNS: foreignNet}, Name: "tap0"})
		wantError(t, err, unix.EPERM, "setns(CLONE_NEWNET): operation not permitted", "CAP_SYS_ADMIN")
	})
	t.Run("another user's process", func(t *testing.T) {
		var st unix.Stat_t
		if err := unix.Stat("/proc/1", &st); err != nil || int(st.Uid) == os.Geteuid() {
			t.Skip("process 1 is ours or hidden")
		}
		_, err := Open(t.Context(), Config{Target: Target{PID: 1}, Name: "tap0"})
		wantError(t, err, unix.EACCES, fmt.Sprintf("belongs to user %d", st.Uid), "run as its user")
	})
	t.Run("outside of our user namespace", func(t *testing.T) {
		// From inside the guest, our own network namespace is the ancestor's.
		a := g.try(command{Do: "open", Config: Config{Target: Target{PID: os.Getpid()}, Name: "tap0"}})
		if !strings.Contains(a.Err, "permission denied") && !strings.Contains(a.Err, "not permitted") || strings.Contains(a.Err, "\n") {
			t.Errorf("error %q", a.Err)
		}
	})
}

func TestOpen_InvalidName(t *testing.T) {
	for name, text := range map[string]string{
		"a/b":              "no valid interface name",
		"a:b":              "no valid interface name",
		"a b":              "no valid interface name",
		"..":               "no valid interface name",
		"sixteen-bytes-xx": "longer than 15 bytes",
	} {
		_, err := Open(t.Context(), Config{Target: Target{PID: os.Getpid()}, Name: name})
		wantError(t, err, 0, text)
	}
}

func TestOpen_LeavesNothing(t *testing.T) {
	g := newGuest(t, nesting{})
	ignore := goleak.IgnoreCurrent()
	fds, before := openFDs(t), children(t)

	// Collections and goroutines that grow their stacks all the while: what a
	// fork between the runtime's hooks must survive.
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	var stop atomic.Bool
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		var sink [][]byte
		for !stop.Load() {
			if sink = append(sink, make([]byte, 4096)); len(sink) > 256 {
				sink = nil
				runtime.Gosched()
			}
			deep(64)
		}
	}()
	for i := range 50 {
		cfg := Config{Target: Target{PID: g.pid}, Name: "tap0", NoOffload: i%2 == 1}
		if i%10 == 9 {
			cfg.Configure = &Network{MTU: 1} // a failure must not leak, either
		}
		d, err := Open(t.Context(), cfg)
		if (err != nil) != (i%10 == 9) {
			t.Fatalf("open %d: %v", i, err)
		}
		if err == nil {
			d.Close()
		}
	}
	stop.Store(true)
	<-finished

	if diff := cmp.Diff(fds, openFDs(t)); diff != "" {
		t.Error("descriptors (-before +after):\n", diff)
	}
	if kids := children(t); !slices.Equal(kids, before) {
		t.Errorf("children %v, before %v", kids, before)
	}
	if g.link("tap0").Exists {
		t.Error("device left")
	}
	goleak.VerifyNone(t, ignore)
}

//go:noinline
func deep(n int) int {
	var pad [512]byte
	if n == 0 {
		return int(pad[0])
	}
	return deep(n-1) + int(pad[n])
}

func BenchmarkOpen(b *testing.B) {
	cmd, _, _, err := startGuest(nesting{})
	if err != nil {
		b.Skip(err)
	}
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

// wantError insists on one line with the given texts that wraps errno.
func wantError(t *testing.T, err error, errno unix.Errno, texts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	if errno != 0 && !errors.Is(err, errno) {
		t.Errorf("error %q does not wrap %q", err, errno)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is more than a line", err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

func openFDs(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out = append(out, e.Name()+" "+to)
		}
	}
	return out
}

// children lists our child processes, zombies included.
func children(t *testing.T) []int {
	t.Helper()
	return childrenOf(t, os.Getpid())
}

// awaitChild waits until parent has a child in its role.
func awaitChild(t *testing.T, parent int) int {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range 250 {
		for _, pid := range childrenOf(t, parent) {
			if hasName(pid, childName) {
				return pid
			}
		}
		<-tick.C
	}
	t.Fatal("no child seen")
	return 0
}

func hasName(pid int, argv0 string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.HasPrefix(string(b), argv0+"\x00")
}

func childrenOf(t *testing.T, parent int) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		var pid, ppid int
		var state string
		_, rest, _ := strings.Cut(string(stat), ") ")
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		if _, err := fmt.Sscan(rest, &state, &ppid); err == nil && ppid == parent {
			out = append(out, pid)
		}
	}
	return out
}

// missingPID returns the number of a process that has ended.
func missingPID(t *testing.T) int {
	t.Helper()
	p, err := os.StartProcess("/proc/self/exe", []string{guestName}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	return p.Pid
}
