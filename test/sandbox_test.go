package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestB44_Confined: every thread of the helper, and the agent, are confined once the
// helper is ready; the other tests are run with helpers like this one.
func TestB44_Confined(t *testing.T) {
	ours(t, "sandbox by default")
	for i, flags := range [][]string{nil, {"--enable-sandbox", "--enable-seccomp"}} {
		w := serve(t, append(flags, "-p", fmt.Sprintf("127.0.0.44:%d:80", 8044+i), "--publish-mode=direct")...)
		agent := agentOf(t, w.helper)
		for _, path := range append(statuses(t, w.helper.PID), statuses(t, agent)...) {
			b, err := os.ReadFile(path)
			if err != nil {
				continue // the thread has ended
			}
			for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n"} {
				if !strings.Contains(string(b), want) {
					t.Errorf("%s lacks %q", path, want)
				}
			}
			_, rest, _ := strings.Cut(string(b), "CapPrm:\t")
			var got uint64
			allowed := uint64(1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_RAW)
			if strings.Contains(path, fmt.Sprint("/", agent, "/")) {
				allowed = 1 << unix.CAP_NET_ADMIN
			}
			if _, err := fmt.Sscanf(rest, "%x", &got); err != nil || got&^allowed != 0 {
				t.Errorf("%s: capabilities %#x, %v", path, got, err)
			}
		}
	}
}

// statuses are the files of all threads of a process.
func statuses(t *testing.T, pid int) []string {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(paths) == 0 {
		t.Fatalf("threads of %d: %v, %v", pid, paths, err)
	}
	return paths
}

// TestSandboxOff keeps all rights, and says so.
func TestSandboxOff(t *testing.T) {
	ours(t, "sandbox by default")
	w := serve(t, "--sandbox=off")
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.helper.PID))
	if err != nil || !strings.Contains(string(b), "Seccomp:\t0\n") {
		t.Errorf("status %s, %v", b, err)
	}
	if said := w.helper.Stdout.String(); strings.Count(said, "--sandbox=off") != 1 {
		t.Errorf("stdout %q", said)
	}
}
