package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"epiphyte/test/harness"
)

// With --map-current the command is the caller, without capabilities, and its network works
// nevertheless: ports below 1024 are its own, and ping is. exec is the same user.
func TestRun_MapCurrent(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	me := fmt.Sprint(os.Getuid())
	const look = `id -u; id -g; sed -n 's/^Cap\(Inh\|Prm\|Eff\|Amb\):\s*0*$/none/p' /proc/self/status`
	want := me + "\n" + fmt.Sprint(os.Getgid()) + "\nnone\nnone\nnone\nnone\n"
	n.start(t, "run", "--map-current", "-p", "127.0.0.1:18098:80", "--", "bash", "-c", look+`; ip -brief address show tap0; exec sleep 100`)
	n.awaitGuests(t, 1)
	if out := n.do(t, "exec", "--", "sh", "-c", look+"; cat /etc/resolv.conf"); !strings.HasPrefix(out, want) || !strings.Contains(out, dns4) {
		t.Errorf("exec: %q", out)
	}
	if out, stderr, code := n.try(t, "run", "--map-current", "--kill-children", "sh", "-c", look+"; echo $$"); code != 0 || out != want+"1\n" {
		t.Errorf("with a PID namespace: status %d, %q, %s", code, out, stderr)
	}
	needs(t, "ping")
	if out, stderr, code := n.try(t, "run", "--map-current", "ping", "-c1", "-W2", gateway4); code != 0 {
		t.Errorf("ping: status %d, %s%s", code, out, stderr)
	}
}

// What --map-auto lacks is one line that says who mends it by what, and no guest is made.
// What it does is shown by root, who alone can give ids to a user: test/root.
func TestRun_MapAutoLacks(t *testing.T) {
	none := etcWith(t)
	writeFile(t, filepath.Join(none, "subuid"), "somebody:100000:65536\n")
	empty := t.TempDir()
	for _, tt := range []struct {
		name   string
		cfg    harness.HelperConfig
		remedy string
	}{
		{"newuidmap", harness.HelperConfig{Env: []string{"PATH=" + empty}}, "there is no newuidmap; root mends that by: apt-get install uidmap"},
		{"ids", harness.HelperConfig{Etc: none}, "--map-auto: /etc/subuid gives "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.name == "ids" {
				needs(t, "newuidmap")
				needs(t, "newgidmap")
			}
			h := run(t, tt.cfg, "--map-auto", "--", "/bin/echo", "it runs")
			code, _, err := h.Exit(timeout(t, deadline))
			if said := h.Stderr.String(); err != nil || code != 1 || strings.Count(said, "\n") != 1 || !strings.Contains(said, tt.remedy) || h.Stdout.String() != "" {
				t.Errorf("status %d, %v: %q %q", code, err, said, h.Stdout)
			}
		})
	}
}
