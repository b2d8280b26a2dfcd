package test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// Where the host has a route to the default IPv6 network, a guest has another, unless it was
// asked for, and nothing is said.
func TestRun_OtherIPv6(t *testing.T) {
	ours(t, "run command")
	t.Parallel()
	for flag, want := range map[string]string{"--ipv6": "fd00:0:0:1::64/64", "--cidr6=fd00::/64": "fd00::64/64"} {
		args := []string{"run", flag, "ip", "-6", "-brief", "address", "show", "tap0"}
		h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
			Args: args, Plain: true, NoWait: true,
			Caps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
			Wrap: []string{"unshare", "-n", "sh", "-ec", `ip link set lo up; ip -6 route add fd00::/64 dev lo
				exec setpriv --ambient-caps=-all --inh-caps=-all "$0" "$@"`},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Kill)
		code, _, err := h.Exit(timeout(t, deadline))
		warned := strings.Contains(h.Stderr.String(), "the guest cannot reach a network of the host")
		if err != nil || code != 0 || !strings.Contains(h.Stdout.String(), want) || warned != strings.HasPrefix(flag, "--cidr6") {
			t.Errorf("%s: status %d, %v: %s%s", flag, code, err, h.Stdout, h.Stderr)
		}
	}
}
