package test

import (
	"fmt"
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
			said := fmt.Sprint(h.Stderr)
			if !strings.Contains(said, want) || (want == "") != (said == "") || strings.Count(said, "\n") > 1 {
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
	if said := fmt.Sprint(attach(t, g, harness.HelperConfig{}, "-6").Stderr); !strings.Contains(said, "IPv6 is off in the guest") {
		t.Errorf("said %q", said)
	}
}
