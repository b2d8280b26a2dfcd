package tap

import (
	"context"
	"errors"
	"fmt"
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
