package test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// What is wrong is said once, in the user's words, and not by names of the API's fields.
func TestMessages(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.start(t, "run", "sleep", "100")
	n.awaitGuests(t, 1)
	for _, tt := range []struct{ args, want string }{
		{"publish abc", `epiphyte publish: parse published port "abc": "abc" is not a port, 1 to 65535`},
		{"publish --guest 10.0.2.2 8082:80", "epiphyte publish: publish 0.0.0.0:8082:80: 10.0.2.2 is the gateway's or the DNS server's, not the guest's"},
		{"unpublish 99", "epiphyte unpublish: id 99: no published port has it"},
		{"network start nosuch", "epiphyte network start: there is no network nosuch: 'epiphyte network ls' lists them, 'epiphyte network create nosuch' makes it"},
		{"version extra", `epiphyte version: "extra" is one argument too many`},
	} {
		out, said, code := n.try(t, strings.Fields(tt.args)...)
		if code != 1 || strings.TrimSuffix(said, "\n") != tt.want || out != "" {
			t.Errorf("%s: status %d, %q\n got %s\nwant %s", tt.args, code, out, said, tt.want)
		}
	}
	if out := n.do(t, "network", "ls", "--json"); strings.Contains(out, "nosuch") {
		t.Errorf("networks: %s", out)
	}
}

// TestRunRefusesFirst: what the host cannot give is said before namespaces are made, which here
// cannot be made either.
func TestRunRefusesFirst(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	taken := filepath.Join(n.dir, "taken")
	l := must(net.Listen("unix", taken))(t)
	defer l.Close()
	cfg := n.cfg
	cfg.Wrap = []string{"unshare", "-r", "sh", "-ec", `echo 0 >/proc/sys/user/max_user_namespaces; exec "$0" "$@"`}
	for _, tt := range []struct{ args, want string }{
		{"no-such-command", "no-such-command: command not found"},
		{"--policy=/nosuch true", "read policy: open /nosuch: no such file or directory"},
		{"--pcap=/nosuch/x true", "open capture: open /nosuch/x: no such file or directory: make its directory first, or choose another path"},
		{"--pcap=/x.pcap true", "open capture: open /x.pcap: permission denied: choose a path where you may write"},
		{"--http-socket=" + taken + " true", "listen on socket " + taken + ": another process listens there: end that one, or choose another path"},
		{"--http-socket=/x.sock true", "listen on socket /x.sock: permission denied: choose a path where you may write"},
		{"-p 80 true", "publish 0.0.0.0:80: listen on tcp 0.0.0.0:80: permission denied (ports below 1024 are closed to this user: as root, sysctl -w net.ipv4.ip_unprivileged_port_start=80)"},
		{"true", "create namespaces: "},
	} {
		h := run(t, cfg, strings.Fields(tt.args)...)
		code, _, err := h.Exit(timeout(t, deadline))
		said, named := strings.CutPrefix(h.Stderr.String(), "epiphyte run: "+tt.want)
		if err != nil || code == 0 || !named || strings.Count(said, "\n") != 1 || tt.args != "true" && said != "\n" {
			t.Errorf("%s: status %d, %v\n got %s\nwant epiphyte run: %s", tt.args, code, err, h.Stderr, tt.want)
		}
	}
	if left := must(filepath.Glob(filepath.Join(n.dir, "*")))(t); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}
