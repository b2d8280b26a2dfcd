package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"epiphyte/test/harness"
)

// A host without a resolv.conf, or with a link that leads nowhere, gives its guests one
// nevertheless: what the resolver knows by itself is found, other names fail at once, and
// the log says why, once.
func TestRun_NoResolvConf(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"", "../run/nobody/stub-resolv.conf"} {
		etc := etcWith(t)
		path := filepath.Join(etc, "resolv.conf")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if link != "" {
			if err := os.Symlink(link, path); err != nil {
				t.Fatal(err)
			}
		}
		h, code := script(t, harness.HelperConfig{Etc: etc}, `
			cat /etc/resolv.conf /etc/nsswitch.conf
			getent ahostsv4 host.epiphyte.internal | head -n 1
			for i in 1 2 3; do getent ahostsv4 name.example || echo none; done`)
		out, said := h.Stdout.String(), h.Stderr.String()
		if code != 0 || !strings.HasPrefix(out, "nameserver "+dns4+"\n") || !strings.Contains(out, "hosts: files dns\n"+gateway4) || strings.Count(out, "none\n") != 3 {
			t.Errorf("link %q: status %d: %s", link, code, out)
		}
		if strings.Count(said, "\n") != 1 || !strings.Contains(said, "no names are resolved") {
			t.Errorf("link %q: it says %s", link, said)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("link %q: there is a file on the host now", link)
		}
	}
}

// A file that was named and is not there ends the start.
func TestResolvConf_Typo(t *testing.T) {
	t.Parallel()
	h := run(t, harness.HelperConfig{}, "--resolv-conf", "/typo", "--", "echo", "it runs")
	code, _, err := h.Exit(timeout(t, deadline))
	if said := h.Stderr.String(); err != nil || code != 1 || strings.Count(said, "\n") != 1 || !strings.Contains(said, "/typo") || h.Stdout.String() != "" {
		t.Errorf("status %d, %v: %q %q", code, err, said, h.Stdout)
	}
}
