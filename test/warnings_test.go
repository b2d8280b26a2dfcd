package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"epiphyte/test/harness"
)

// TestStartWarnings: what does not work as the host is now is said at start, in a
// line each, and ends nothing.
func TestStartWarnings(t *testing.T) {
	ours(t, "warning")
	for flags, want := range map[string]string{
		"--cidr=192.0.2.0/24":                "cannot reach a network of the host",
		"-6 --cidr6=2001:db8:1::/64":         "cannot reach a network of the host",
		"--outbound-addr=203.0.113.200":      "no interface has the address 203.0.113.200",
		"-6 --outbound-addr6=2001:db8:99::1": "no interface has the address 2001:db8:99::1",
		"-6":                                 "",
	} {
		t.Run(flags, func(t *testing.T) {
			g := newGuest(t)
			h := attach(t, g, harness.HelperConfig{}, strings.Fields(flags)...)
			if want != "" {
				saysOnce(t, h, want)
			}
			if said := fmt.Sprint(h.Stderr); (want == "") != (said == "") || strings.Count(said, "\n") > 1 {
				t.Errorf("said %q, want %q", said, want)
			}
		})
	}
}

// TestIPv6OffInTheGuest: asked for, it is missed with a warning.
func TestIPv6OffInTheGuest(t *testing.T) {
	ours(t, "warning")
	g := newGuest(t)
	for _, place := range []string{"all", "default"} {
		if err := g.Sysctl("net/ipv6/conf/"+place+"/disable_ipv6", "1"); err != nil {
			t.Fatal(err)
		}
	}
	saysOnce(t, attach(t, g, harness.HelperConfig{}, "-6"), "IPv6 is off in the guest")
}

// TestB2_ControlSocketOfAnother: a socket that another program listens on is left to
// it, and nothing is left of the start that wanted it.
func TestB2_ControlSocketOfAnother(t *testing.T) {
	ours(t, "refusal")
	path := filepath.Join(t.TempDir(), "api")
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	attach(t, newGuest(t), harness.HelperConfig{}, "-a", path)
	g := newGuest(t)
	h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
		Args: []string{"-c", "-a", path, "-r", harness.ReadyFD, fmt.Sprint(g.PID), tapName}, NoWait: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Kill)
	code, _, err := h.Exit(timeout(t, deadline))
	if said := fmt.Sprint(h.Stderr); err != nil || code != 1 || strings.Count(said, "\n") != 1 || !strings.Contains(said, path+": another process listens there") {
		t.Errorf("exit status %d, %v, %q", code, err, said)
	}
	if links, err := g.Links(); err != nil || len(links) > 0 {
		t.Errorf("left in the guest: %v, %v", links, err)
	}
}
