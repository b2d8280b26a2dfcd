package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// TestB44_Confined: every thread of the helper, and the agent, are confined once the
// helper is ready, and have the capabilities of docs/security.md and no others; the other
// tests are run with helpers like this one.
func TestB44_Confined(t *testing.T) {
	ours(t, "sandbox by default")
	const bind, raw, admin = 1 << unix.CAP_NET_BIND_SERVICE, 1 << unix.CAP_NET_RAW, 1 << unix.CAP_NET_ADMIN
	for name, c := range map[string]struct {
		flags []string
		caps  []uintptr
		kept  uint64
	}{
		"by default":      {nil, nil, 0},
		"demanded":        {[]string{"--enable-sandbox", "--enable-seccomp"}, nil, 0},
		"with privileges": {nil, []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}, bind | raw},
	} {
		t.Run(name, func(t *testing.T) {
			w := serveWith(t, harness.HelperConfig{Caps: c.caps}, append(c.flags, "-p", "127.0.0.44:8044:80", "--publish-mode=direct")...)
			confined(t, w.helper.PID, c.kept)
			confined(t, agentOf(t, w.helper), admin)
		})
	}
}

// confined looks at all threads of a process.
func confined(t *testing.T, pid int, caps uint64) {
	t.Helper()
	// The set that bounds what an executed program may get is as it was: nothing can be
	// executed.
	bounds := statusField(t, "/proc/self/status", "CapBnd")
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(paths) == 0 {
		t.Fatalf("threads of %d: %v, %v", pid, paths, err)
	}
	for _, path := range paths {
		for key, want := range map[string]string{
			"NoNewPrivs": "1", "Seccomp": "2",
			"CapPrm": fmt.Sprintf("%016x", caps), "CapEff": fmt.Sprintf("%016x", caps), "CapBnd": bounds,
			"CapInh": fmt.Sprintf("%016x", 0), "CapAmb": fmt.Sprintf("%016x", 0),
		} {
			// None where the thread has ended.
			if got := statusField(t, path, key); got != "" && got != want {
				t.Errorf("%s: %s is %s, want %s", path, key, got, want)
			}
		}
	}
}

// statusField is one value of a status file in /proc, and none of a file that has gone.
func statusField(t *testing.T, path, key string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	_, rest, found := strings.Cut(string(b), "\n"+key+":\t")
	if !found {
		t.Errorf("%s has no %s", path, key)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// TestSandboxOff keeps all rights, and says so.
func TestSandboxOff(t *testing.T) {
	ours(t, "sandbox by default")
	w := serve(t, "--sandbox=off")
	if got := statusField(t, fmt.Sprintf("/proc/%d/status", w.helper.PID), "Seccomp"); got != "0" {
		t.Errorf("Seccomp is %q, want 0", got)
	}
	if said := w.helper.Stdout.String(); strings.Count(said, "--sandbox=off") != 1 {
		t.Errorf("stdout %q", said)
	}
}
