package test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"epiphyte/test/harness"
)

// TestBulkNeedsLo: where the guest's lo does not pass a connection's segments, the connection
// goes on by the device, and loses nothing.
func TestBulkNeedsLo(t *testing.T) {
	for name, command := range map[string][]string{
		"down":     {"ip", "link", "set", "lo", "down"},
		"filtered": {"nft", "table inet f { chain i { type filter hook input priority 0; iif lo ip saddr != 127.0.0.0/8 drop; }; }"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "http")
			w, carried := bulkWorldAt(t, socket)
			if out, err := w.Run(timeout(t, deadline), needs(t, command[0]), command[1:]...); err != nil {
				t.Fatalf("%q: %v: %s", command, err, out)
			}
			addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.NetIPv4, "0"), echoTCP)
			c := w.dial(t, "tcp4", hostPort(harness.NetIPv4, addr))
			if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if err := echoes(c, strings.Repeat("x", 200_000)); err != nil {
					t.Fatal(err)
				}
			}
			if n := carried(); n > 0 {
				t.Errorf("%d connections left the device", n)
			}
			noRules(t, w.Guest)

			// Attempts after the first come 1, 3, 7, 15 and 31 s later.
			for range 20 {
				if err := echoes(w.dial(t, "tcp4", hostPort(harness.NetIPv4, addr)), "x"); err != nil {
					t.Fatal(err)
				}
			}
			if n := stat(t, socket, "connections_stayed"); n > 6 {
				t.Errorf("%d connections have tried to leave", n)
			}
		})
	}
}
