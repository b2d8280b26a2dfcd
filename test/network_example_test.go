package test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestN10_ExampleWorks runs the example of docs/networks.md, as a reader would.
func TestN10_ExampleWorks(t *testing.T) {
	for _, program := range []string{"python3", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("the example needs %s: %v", program, err)
		}
	}
	n := newNetworks(t)
	script := must(filepath.Abs("../docs/examples/three-tiers.sh"))(t)
	n.cfg.Wrap = []string{"sh", script}
	n.cfg.Env = append(n.cfg.Env, "EPIPHYTE="+env.Binary, "PORT=18080")
	stdout, stderr, code := n.try(t)
	n.cfg.Wrap = nil
	if code != 0 || !strings.Contains(stdout, "back reaches nothing outside") {
		t.Errorf("exit status %d\n%s\n%s", code, stdout, stderr)
	}
}
