package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPastaRelativePaths: files that options name are those of the directory that the caller
// is in, which the process in the background leaves.
func TestPastaRelativePaths(t *testing.T) {
	g, dir := newGuest(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy"), []byte("allow tcp 192.0.2.1:80\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-c", `cd "$0" && exec "$@"`, dir, pastaLink(t), "--config-net", "-I", tapName, "--pid=pid", "-l", "log", "-p", "capture",
		"-c", "conf", "--policy=policy", "--policy-log=flows"}
	if c := call(t, "sh", append(append(args, closedPorts...), fmt.Sprint(g.PID))...); c.code != 0 {
		t.Fatalf("%+v", c)
	}
	background(t, filepath.Join(dir, "pid"))
	for _, name := range []string{"log", "capture", "conf", "flows"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// TestPastaCommandLogsToFile, as all others do.
func TestPastaCommandLogsToFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	c := call(t, pastaLink(t), append(closedPorts[:len(closedPorts):len(closedPorts)], "--config-net", "-d", "-l", file, "--", "true")...)
	if c.code != 0 || c.said != "" {
		t.Errorf("%+v", c)
	}
	if log := string(must(os.ReadFile(file))(t)); !strings.HasPrefix(log, "pasta ") || !strings.Contains(log, "level=DEBUG") {
		t.Errorf("the log: %q", log)
	}
}
