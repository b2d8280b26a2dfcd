package test

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// counters are those of a running program, by name and label.
func counters(t testing.TB, socket string) func(name, label string) int {
	t.Helper()
	h := startClient(t, "stats", "--json", "--http-socket", socket)
	if code, _, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Fatalf("stats: %d, %v: %s", code, err, h.Stderr)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(h.Stdout.String()), &all); err != nil {
		t.Fatal(err)
	}
	return func(name, label string) int {
		t.Helper()
		var values map[string]int
		if err := json.Unmarshal(all[name], &values); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		n, ok := values[label]
		if !ok {
			t.Errorf("%s has no %s: %v", name, label, values)
		}
		return n
	}
}

// TestCountersTellWhatWentWrong: what the guest may not reach, what the host could not
// connect to and why, and what became of its queries.
func TestCountersTellWhatWentWrong(t *testing.T) {
	ours(t, "--http-socket")
	const resolver, failing = "198.51.100.7", "198.51.100.8"
	serveDNS(t, env.Net.Net, resolver, named("192.0.2.44"))
	socket := filepath.Join(t.TempDir(), "http")
	conf := etc(t, resolver)
	w := serveWith(t, harness.HelperConfig{Etc: conf}, "--http-socket="+socket, "--disable-host-loopback")
	before := counters(t, socket)
	grew := func(after func(string, string) int, name, label string, want int) {
		t.Helper()
		if n := after(name, label) - before(name, label); n != want {
			t.Errorf("%s{%s} grew by %d, want %d", name, label, n, want)
		}
	}
	for to, want := range map[string]unix.Errno{
		net.JoinHostPort(harness.NetIPv4, "1"):              unix.ECONNREFUSED,
		net.JoinHostPort(harness.HostUnreachableIPv4, "80"): unix.EHOSTUNREACH,
		net.JoinHostPort(harness.NetUnreachableIPv4, "80"):  unix.ENETUNREACH,
		net.JoinHostPort(gateway4, "80"):                    unix.ENETUNREACH,
	} {
		if c, err := w.Dial(timeout(t, deadline), "tcp4", to); !isErrno(err, want) {
			t.Errorf("connect to %s: %v, %v; want %v", to, c, err, want)
		}
	}
	if rcode, _, err := w.lookup(t, "udp4", dns4, "name.test.", deadline); rcode != dns.RcodeSuccess || err != nil {
		t.Errorf("%d, %v", rcode, err)
	}
	writeConf(t, filepath.Join(conf, "resolv.conf"), failing)
	eventually(t, deadline, func() error {
		rcode, _, err := w.lookup(t, "udp4", dns4, "name.test.", deadline)
		if err == nil && rcode != dns.RcodeServerFailure {
			err = fmt.Errorf("nobody is asked, and the answer is %d", rcode)
		}
		return err
	})
	after := counters(t, socket)
	grew(after, "connect_failures", "ECONNREFUSED", 1)
	grew(after, "connect_failures", "EHOSTUNREACH", 1)
	grew(after, "connect_failures", "ENETUNREACH", 1)
	grew(after, "forbidden_flows", "refused", 1)
	if n := after("dns_queries", "answered") - before("dns_queries", "answered"); n < 1 {
		t.Errorf("%d queries answered", n)
	}
	if n := after("dns_queries", "failed") - before("dns_queries", "failed"); n != 1 {
		t.Errorf("%d queries failed", n)
	}
	for _, direction := range []string{"in", "out"} {
		frames, size := after("frames", direction)-before("frames", direction), after("frame_bytes", direction)-before("frame_bytes", direction)
		if frames < 6 || size < 40*frames {
			t.Errorf("%d frames of %d bytes %s", frames, size, direction)
		}
	}
}

// TestAServerOnTheGuestsLoopbackIsExplained: the commonest mistake with published ports has
// one line in the log, however many clients are refused.
func TestAServerOnTheGuestsLoopbackIsExplained(t *testing.T) {
	ours(t, "--publish")
	for _, path := range publishPaths() {
		t.Run(path.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "http")
			w := published(t, "18320", "", append(path.flags, "--http-socket="+socket)...)
			serveTCP(t, w.NetNS, "tcp4", "127.0.0.1:"+guestPort, echoTCP)
			before := counters(t, socket)
			for range 3 {
				if err := refusal(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.HostIPv4, "18320")); !isErrno(err, unix.ECONNRESET) {
					t.Errorf("the client saw %v", err)
				}
			}
			if n := counters(t, socket)("client_failures", "ECONNREFUSED") - before("client_failures", "ECONNREFUSED"); n != 3 {
				t.Errorf("%d of 3 clients are counted", n)
			}
			saysOnce(t, w.helper, "127.0.0.1 only")
			saysOnce(t, w.helper, "port="+guestPort)
		})
	}
}
