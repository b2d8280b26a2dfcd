package network

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/netdef"
	"epiphyte/internal/testnet"
)

// keptNetwork is what a keeper serves by the fake worker.
type keptNetwork struct {
	path   string // of its socket
	log    *logBuffer
	cancel context.CancelFunc
	ended  chan error
}

// logBuffer is written by the keeper and read by the test.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// keepNetwork starts a keeper, whose worker behaves as it says, and waits until it is
// ready or has ended.
func keepNetwork(t *testing.T, how string, stay bool) *keptNetwork {
	t.Helper()
	testnet.CheckLeaks(t)
	t.Setenv(envFake, how)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	k := &keptNetwork{path: filepath.Join(t.TempDir(), "sock"), log: &logBuffer{}, ended: make(chan error, 1)}
	l, err := listen(k.path)
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, k.cancel = context.WithCancel(context.Background())
	ready := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.ended <- Keep(ctx, KeeperConfig{
			Definition: netdef.Definition{Name: "web"}, Listener: l, Program: program, Stay: stay,
			Ready: func() { close(ready) }, Logger: slog.New(slog.NewTextHandler(k.log, nil)),
		})
	}()
	t.Cleanup(func() { k.cancel(); <-done })
	select {
	case <-ready:
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("the keeper is not ready: %s", k.log)
	}
	return k
}

// open connects and asks for the network.
func (k *keptNetwork) open(t *testing.T) (*Client, *Info) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, info, err := Open(ctx, k.path, nil)
	if err != nil {
		t.Fatalf("%v: %s", err, k.log)
	}
	return c, info
}

// join makes a member of a pipe, and gives the end that a worker's words come out of.
func (k *keptNetwork) join(t *testing.T, m Member) *bufio.Reader {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	c, _ := k.open(t)
	defer c.Close()
	if _, _, err := c.Join(t.Context(), m, Handover{TAP: int(w.Fd())}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	return bufio.NewReader(r)
}

// end asks for something that the worker does not outlive.
func (k *keptNetwork) end(t *testing.T, op operation) {
	t.Helper()
	c, _ := k.open(t)
	defer c.Close()
	if _, err := c.ask(t.Context(), request{Op: op}); err != errRetry {
		t.Errorf("%s: %v", op, err)
	}
}

func wantEnd(t *testing.T, k *keptNetwork) error {
	t.Helper()
	select {
	case err := <-k.ended:
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("the keeper has not ended: %s", k.log)
		return nil
	}
}

// TestDeadWorkerIsReplaced by one that gets the members with their descriptors, those alone
// that have not left.
func TestDeadWorkerIsReplaced(t *testing.T) {
	k := keepNetwork(t, "", false)
	words := k.join(t, Member{ID: "1", Name: "db"})
	left := k.join(t, Member{ID: "2", Name: "left"})
	c, before := k.open(t)
	if err := c.Leave(t.Context(), "2"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	k.end(t, opDie)
	c, after := k.open(t)
	c.Close()
	if after.Worker == before.Worker || after.Keeper != os.Getpid() || len(after.Members) != 1 || after.Members[0].Name != "db" || after.Name != "web" {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if line, err := words.ReadString('\n'); err != nil || line != "db again\n" {
		t.Errorf("the member hears %q, %v", line, err)
	}
	if line, err := left.ReadString('\n'); err == nil { // all copies of its descriptor are closed
		t.Errorf("one that has left hears %q", line)
	}
	if !strings.Contains(k.log.String(), "started again") {
		t.Errorf("the log says %q", k.log)
	}
}

// TestWorkerThatDiesOnAndOn is not started without a pause.
func TestWorkerThatDiesOnAndOn(t *testing.T) {
	k := keepNetwork(t, "", false)
	begin := time.Now()
	for range 3 { // the first is replaced at once
		k.end(t, opDie)
	}
	c, _ := k.open(t)
	c.Close()
	if took := time.Since(begin); took < 2*restartPause {
		t.Errorf("three deaths took %v", took)
	}
}

// TestFirstWorkerThatCannotServe is an error with the reason, not to be tried again.
func TestFirstWorkerThatCannotServe(t *testing.T) {
	for how, want := range map[string]string{"exits": errNotReady.Error(), "fails": "no network today"} {
		t.Run(how, func(t *testing.T) {
			k := keepNetwork(t, how, false)
			if err := wantEnd(t, k); err == nil || err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
		})
	}
}

// TestUpgrade: another program goes on with the members; one that does not serve gives
// way to the one before.
func TestUpgrade(t *testing.T) {
	for _, tc := range []struct {
		name, program, says string
	}{
		{"serves", "", "another program goes on"},
		{"ends", "/bin/false", "the one before goes on"},
		{"does not exist", "/nonexistent", "the one before goes on"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := keepNetwork(t, "", false)
			words := k.join(t, Member{ID: "1", Name: "db"})
			program := tc.program
			if program == "" {
				own, err := os.ReadFile("/proc/self/exe")
				program = filepath.Join(t.TempDir(), "newer")
				if err = errors.Join(err, os.WriteFile(program, own, 0o700)); err != nil {
					t.Fatal(err)
				}
			}
			c, before := k.open(t)
			if err := c.Upgrade(t.Context(), program); err != nil {
				t.Fatal(err)
			}
			c.Close()
			c, after := k.open(t)
			c.Close()
			if after.Worker == before.Worker || len(after.Members) != 1 {
				t.Errorf("before %+v, after %+v", before, after)
			}
			if line, err := words.ReadString('\n'); err != nil || line != "db again\n" {
				t.Errorf("the member hears %q, %v", line, err)
			}
			if tc.program == "" {
				if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", after.Worker)); path != program {
					t.Errorf("the worker is %s, %v", path, err)
				}
			}
			if !strings.Contains(k.log.String(), tc.says) {
				t.Errorf("the log says %q", k.log)
			}
		})
	}
}

// TestEmptyNetworkEnds, unless it is to stay: then it has no worker until somebody comes.
func TestEmptyNetworkEnds(t *testing.T) {
	k := keepNetwork(t, "", false)
	k.end(t, opEmptyNow)
	if err := wantEnd(t, k); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("unixpacket", k.path); err == nil {
		t.Error("its socket takes clients")
	}

	k = keepNetwork(t, "", true)
	c, before := k.open(t)
	c.Close()
	k.end(t, opEmptyNow)
	if !testnet.Within(10*time.Second, func() bool { return unix.Kill(before.Worker, 0) == unix.ESRCH }) {
		t.Error("the worker has not ended")
	}
	c, after := k.open(t)
	c.Close()
	if after.Worker == before.Worker {
		t.Error("the worker is the same")
	}
	k.end(t, opEmptyNow)
	if !testnet.Within(10*time.Second, func() bool { return unix.Kill(after.Worker, 0) == unix.ESRCH }) {
		t.Error("the worker has not ended")
	}
	k.cancel()
	if err := wantEnd(t, k); err != nil {
		t.Error(err)
	}
}

// TestStoppedNetworkEnds whoever is a member; so does the end of the keeper's context.
func TestStoppedNetworkEnds(t *testing.T) {
	for name, stop := range map[string]func(*keptNetwork, *Client) error{
		"stop":    func(_ *keptNetwork, c *Client) error { return c.Stop(t.Context()) },
		"context": func(k *keptNetwork, _ *Client) error { k.cancel(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			k := keepNetwork(t, "", true)
			words := k.join(t, Member{ID: "1", Name: "db"})
			c, info := k.open(t)
			defer c.Close()
			if err := stop(k, c); err != nil {
				t.Error(err)
			}
			if err := wantEnd(t, k); err != nil {
				t.Error(err)
			}
			if unix.Kill(info.Worker, 0) != unix.ESRCH {
				t.Error("the worker lives")
			}
			if line, err := words.ReadString('\n'); err == nil {
				t.Errorf("the member hears %q", line)
			}
		})
	}
}
