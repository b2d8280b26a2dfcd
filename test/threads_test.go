package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// enoughThreads is more than a program of ours has had under load (package cli).
const enoughThreads = 12

// TestThreadsExhausted: a process limit that is full when the helper is ready, which
// ends a Go program that needs one more thread, does not end the guest's network. On a host
// of many processors Go's collector would use as many threads.
func TestThreadsExhausted(t *testing.T) {
	ours(t, "its threads before it is ready")
	socket := filepath.Join(t.TempDir(), "api")
	w := serveWith(t, harness.HelperConfig{Env: []string{"GOMAXPROCS=64"}}, "--mtu=65520", "--api-socket="+socket)
	f := families()[0]
	// One thread is allowed, and there are more: the kernel refuses each further one.
	if err := unix.Prlimit(w.helper.PID, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 1, Max: 1}, nil); err != nil {
		t.Fatal(err)
	}
	before := w.usage(t)
	if before.Threads < enoughThreads {
		t.Errorf("%d threads when ready: load may need more", before.Threads)
	}
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(f.server, "0"), echoTCP)
	w.manyConnections(t, f, hostPort(f.server, addr), descriptorRoom(t, 500))
	var asking sync.WaitGroup
	for range 32 {
		asking.Go(func() {
			if err := w.Do(func() error {
				c, err := net.DialTimeout("tcp4", net.JoinHostPort(f.dns, "53"), deadline)
				if err != nil {
					return err
				}
				defer c.Close()
				// A query for a name that no nameserver has.
				_, err = c.Write([]byte("\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04name\x06silent\x00\x00\x01\x00\x01"))
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
	for range 32 {
		if reply := request(t, socket, `{"execute":"list_hostfwd"}`); reply["return"] == nil {
			t.Errorf("list_hostfwd: %v", reply)
		}
	}
	asking.Wait()
	if err := w.Do(func() error { return oneByte(f, hostPort(f.server, addr)) }); err != nil {
		t.Error(err)
	}
	if now := w.usage(t); now.Threads > before.Threads {
		t.Errorf("%d threads, %d when the limit was set", now.Threads, before.Threads)
	}
	select {
	case <-w.helper.Done():
		t.Fatal(fmt.Errorf("the helper has ended: %s", w.helper.Stderr))
	default:
	}
}

// TestN_ThreadsExhausted: nor does it end a network, whose two processes have the same limit.
func TestN_ThreadsExhausted(t *testing.T) {
	n := newNetworks(t)
	n.cfg.Env = append(n.cfg.Env, "GOMAXPROCS=64")
	a, b := n.run(t, "net", "a"), n.run(t, "net", "b")
	before := n.inspect(t, "net")
	for _, pid := range [...]int{before.Keeper, before.Worker} {
		if all, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)); err != nil || len(all) < enoughThreads {
			t.Errorf("%d threads: load may need more (%v)", len(all), err)
		}
		if err := unix.Prlimit(pid, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 1, Max: 1}, nil); err != nil {
			t.Fatal(err)
		}
	}
	resume := make(chan struct{})
	close(resume)
	_, done := transfer(t, a, b, 64<<20, resume)
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			if _, err := n.tryInspect(t, "net"); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
	c := n.run(t, "net", "c")
	c.serveEcho(t)
	for _, f := range families() {
		if err := a.tryTCP(t, f, c.address(f), deadline); err != nil {
			t.Error(err)
		}
	}
	if now := n.inspect(t, "net"); now.Keeper != before.Keeper || now.Worker != before.Worker {
		t.Errorf("keeper %d, worker %d; before %d, %d", now.Keeper, now.Worker, before.Keeper, before.Worker)
	}
}

// TestProcessLimitAtStart: where no thread is to be had before the helper is ready,
// Go's runtime ends it. It names the limit, and nothing is left.
func TestProcessLimitAtStart(t *testing.T) {
	ours(t, "text of this kind")
	g := newGuest(t)
	h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
		Wrap:   []string{"bash", "-c", `ulimit -u 1; exec "$0" "$@"`},
		Args:   []string{"-c", "-r", harness.ReadyFD, fmt.Sprint(g.PID), tapName},
		NoWait: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Kill)
	if err := h.WaitReady(timeout(t, deadline)); err == nil {
		t.Error("the ready byte was written")
	}
	if code, sig, err := h.Exit(timeout(t, deadline)); err != nil || code == 0 || !strings.Contains(h.Stderr.String(), "ulimit -u") {
		t.Errorf("exit status %d, signal %v, %v: %s", code, sig, err, h.Stderr)
	}
	if links, err := g.Links(); err != nil || len(links) > 0 {
		t.Errorf("left behind in the guest: %v, %v", links, err)
	}
}
