package test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestN10_ExampleWorks runs the example of docs/networks.md, as a reader would.
func TestN10_ExampleWorks(t *testing.T) {
	needs(t, "python3")
	needs(t, "curl")
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
