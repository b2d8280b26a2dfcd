package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"epiphyte/test/harness"
)

// TestTraceOfFlows: at debug level the log tells when a flow begins, by which socket of the
// host and by which rule it is established, and why it ends with how many bytes; and nothing
// in between.
func TestTraceOfFlows(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	rules := filepath.Join(n.dir, "rules")
	if err := os.WriteFile(rules, []byte("allow "+harness.NetIPv4+"\nallow udp 198.51.100.9:9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	closed := net.JoinHostPort(harness.NetIPv4, "1")
	script := fmt.Sprintf("exec 2>/dev/null; echo x >/dev/udp/198.51.100.9/9; echo x >/dev/tcp/%s/1; true", harness.NetIPv4)
	_, stderr, code := n.try(t, "run", "--log-level=debug", "--policy="+rules, "bash", "-c", script)
	if code != 0 {
		t.Fatalf("status %d: %s", code, stderr)
	}
	for _, line := range []string{
		`msg="flow begins" proto=tcp .*remote=` + regexp.QuoteMeta(closed),
		`msg="flow ends" proto=tcp .*remote=` + regexp.QuoteMeta(closed) + ` .*why="connection refused" in=0 out=0`,
		`msg="flow begins" proto=udp .*guest=10\.0\.2\.100:`,
		`msg="flow ends" proto=udp .*why="the network closes" in=0 out=2`,
	} {
		if !regexp.MustCompile(line).MatchString(stderr) {
			t.Errorf("nothing like %s in\n%s", line, stderr)
		}
	}
	if lines := strings.Count(stderr, `msg="flow `); lines != 4 {
		t.Errorf("%d lines about two flows:\n%s", lines, stderr)
	}
}
