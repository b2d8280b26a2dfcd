package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLogFileLosesItsOldestLines: behind its first line, which says whose it is, the file
// has the newest lines and never more bytes than it may, although the program is confined
// when it writes them. stderr has none.
func TestLogFileLosesItsOldestLines(t *testing.T) {
	ours(t, "--log-file")
	const limit = 8 << 10
	file := filepath.Join(t.TempDir(), "log")
	w := serve(t, "--log-file="+file, "--log-size=8k", "--stats=0.02")
	read := func() []string {
		b := must(os.ReadFile(file))(t)
		if len(b) > limit {
			t.Fatalf("%d bytes", len(b))
		}
		return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	}
	var begin string // the first line of counters
	eventually(t, deadline, func() error {
		lines := read()
		if len(lines) < 2 || !strings.Contains(lines[1], "msg=") {
			return fmt.Errorf("the log: %q", lines)
		}
		begin = lines[1]
		return nil
	})
	first := regexp.MustCompile(`^epiphyte \S+: /\S+ \(` + fmt.Sprint(w.helper.PID) + `\)$`)
	eventually(t, deadline, func() error {
		lines := read()
		if !first.MatchString(lines[0]) {
			t.Fatalf("the first line is %q", lines[0])
		}
		if len(lines) < 2 || lines[1] == begin {
			return fmt.Errorf("the oldest of %d lines is still there", len(lines))
		}
		return nil
	})
	if mode := must(os.Stat(file))(t).Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %o, want 600", mode)
	}
	if said := w.helper.Stderr.String(); said != "" {
		t.Errorf("stderr: %s", said)
	}
}

// TestLogFileExplainsTheEnd, as stderr does.
func TestLogFileExplainsTheEnd(t *testing.T) {
	ours(t, "--log-file")
	file := filepath.Join(t.TempDir(), "log")
	h := startClient(t, "--log-file="+file, "1073741823", tapName)
	if code, _, err := h.Exit(timeout(t, deadline)); code != 1 || err != nil {
		t.Fatalf("ended with %d, %v", code, err)
	}
	said, written := strings.TrimPrefix(strings.TrimSpace(h.Stderr.String()), "epiphyte: "), string(must(os.ReadFile(file))(t))
	if said == "" || strings.Contains(said, "\n") || !strings.Contains(written, said) {
		t.Errorf("stderr: %s\nthe file: %s", said, written)
	}
}
