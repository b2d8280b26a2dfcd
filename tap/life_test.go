package tap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

			opened := make(chan error, 1)
			go func() {
				d, err := Open(t.Context(), cfg)
				if err == nil {
					d.Close()
				}
				opened <- err
			}()
			timer := time.NewTimer(150 * time.Millisecond)
			select {
			case err := <-opened:
				t.Fatalf("did not wait for the busy device: %v", err)
			case <-timer.C:
			}
			g.do(command{Do: "release"})
			if err := <-opened; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpen_ContextEnds(t *testing.T) {
	g := newGuest(t, nesting{})
	g.do(command{Do: "add", Name: "tap0"})
	g.do(command{Do: "hold", Name: "tap0"})
	before := children(t)
	// It does not wait until it gives up by itself; a busy machine lets it now and then.
	took := busyFor
	for try := 0; try < 10 && took >= busyFor/2; try++ {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := Open(ctx, Config{Target: Target{PID: g.pid}, Name: "tap0"})
		if took = time.Since(began); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	}
	if took >= busyFor/2 {
		t.Errorf("took %v", took)
	}
	if kids := children(t); !slices.Equal(kids, before) {
		t.Errorf("children %v, before %v", kids, before)
	}
}

// A kill -9 while we wait for a busy device leaves the device alone and nothing
// else behind.
func TestB4_KilledWhileWaiting(t *testing.T) {
	g := newGuest(t, nesting{})
	g.do(command{Do: "add", Name: "tap0"})
	g.do(command{Do: "hold", Name: "tap0"})
	h := newProcess(t, nesting{SameUser: true, KeepNet: true})
	cfg := Config{Target: Target{PID: g.pid}, Name: "tap0"}
	if err := h.in.Encode(command{Do: "open", Config: cfg}); err != nil {
		t.Fatal(err)
	}
	awaitOpen(t, h.pid, "/dev/net/tun")
	if err := unix.Kill(h.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	g.do(command{Do: "release"})
	if d := open(t, cfg); !d.Offload() {
		t.Errorf("the next one: %+v", infoOf(d))
	}
}

// awaitOpen waits until a process has opened a file.
func awaitOpen(t *testing.T, pid int, path string) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < patience; <-tick.C {
		// It cannot be looked into while a child of its runs.
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if slices.ContainsFunc(links, func(l string) bool { to, _ := os.Readlink(l); return to == path }) {
			return
		}
	}
	t.Fatalf("process %d has not opened %s", pid, path)
}

// The caller may wait for the end of a pipe that we inherited.
func TestOpen_NobodyKeepsDescriptors(t *testing.T) {
	g := newGuest(t, nesting{})
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0"})
	unix.Close(pipe[1])
	if !ready(t, pipe[0], 0, 0) {
		t.Error("somebody holds the pipe")
	}
}

// waitingChild has a process start a child that waits for somebody to open the other end
// of a FIFO. Of the child it returns a pidfd.
func waitingChild(t *testing.T) (h *guest, pidfd int) {
	t.Helper()
	g := newGuest(t, nesting{})
	fifo := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	h = newProcess(t, nesting{SameUser: true, KeepNet: true})
	if err := h.in.Encode(command{Do: "wait inside", PID: g.pid, Name: fifo}); err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(awaitChild(t, h.pid), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pidfd) })
	return h, pidfd
}

// A child that somebody kills, the guest perhaps or the kernel for want of memory, is
// an error at once.
func TestAsk_ChildIsKilled(t *testing.T) {
	h, pidfd := waitingChild(t)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	var a answerTo
	if err := h.out.Decode(&a); err != nil || a.Err != errSilent.Error() {
		t.Errorf("%+v, %v", a, err)
	}
	if kids := childrenOf(t, h.pid); len(kids) > 0 {
		t.Errorf("children %v", kids)
	}
}

// kill -9 takes the child along, even one that waits or that the guest has stopped.
func TestB4_ChildGoesWithUs(t *testing.T) {
	for name, sig := range map[string]unix.Signal{"waiting": 0, "stopped": unix.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			h, pidfd := waitingChild(t)
			if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(h.pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if !ready(t, pidfd, unix.POLLIN, patience) {
				t.Error("the child lives on")
			}
		})
	}
}

// What the child does to be let into the guest does not change us.
func TestOpen_LeavesTheProcessDumpable(t *testing.T) {
	g := newGuest(t, nesting{})
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0"})
	if now, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || now != before {
		t.Errorf("dumpable %d, before %d: %v", now, before, err)
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
	return filesOf(t, "/proc/self/fd")
}

// filesOf lists the descriptors of a process with what they are.
func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if to, err := os.Readlink(dir + "/" + e.Name()); err == nil {
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

// awaitChild waits until a process has a child.
func awaitChild(t *testing.T, parent int) int {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < patience; <-tick.C {
		if kids := childrenOf(t, parent); len(kids) > 0 {
			return kids[0]
		}
	}
	t.Fatal("no child seen")
	return 0
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
