package cli

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Values that can be read and cannot work end the start before anything is made, in
// one line that names the cause and what to do.
func TestValuesThatCannotWork(t *testing.T) {
	dir := t.TempDir()
	readEnd, _ := pipe(t)
	const (
		attach = "4242 tap0"
		both   = "" // for either command
	)
	for _, c := range []struct {
		args, operands string
		cause, remedy  string
	}{
		{"--cidr=127.0.0.0/8", both, "127.0.0.0/8 is loopback", "10.0.2.0/24"},
		{"--cidr=224.0.0.0/24", both, "224.0.0.0/24 is multicast", "10.0.2.0/24"},
		{"--cidr=0.0.0.0/8", both, "do not know their own", "10.0.2.0/24"},
		{"--cidr=240.0.0.0/24", both, "reserved", "10.0.2.0/24"},
		{"-6 --cidr6=ff02::/64", both, "ff02::/64 is multicast", "fd00::/64"},
		{"-6 --cidr6=fe80::/64", both, "fe80::/64 is link-local", "fd00::/64"},
		{"-6 --cidr6=::/64", both, "::/64 is loopback", "fd00::/64"},
		{"--cidr6=fd01::/64", attach, "--cidr6 has no effect without IPv6", "-6"},
		{"-c --macaddress=52:55:0a:00:02:02", attach, "52:55:0a:00:02:02 is the gateway's own", "choose another"},
		{"-c --cidr=10.9.0.0/16 --macaddress=52:55:0a:09:00:02", attach, "52:55:0a:09:00:02 is the gateway's own", "choose another"},
		{"--outbound-addr=224.0.0.1", both, "outbound-addr has to be valid ipv4 address", "or interface name"},
		{"--outbound-addr6=ff02::1", both, "outbound-addr6 has to be valid ipv6 address", "or interface name"},
		{"--http-socket=127.0.0.1:9000", both, "127.0.0.1:9000 is an address", "give a path"},
		{"--http-socket=:9000", both, ":9000 is an address", "give a path"},
		{"--http-socket=http://localhost/x", both, "http://localhost/x is an address", "give a path"},
		{"--http-socket=", both, "HTTP socket path is empty", ""},
		{"--api-socket=", both, "API socket path is empty", ""},
		{"--api-socket=" + dir + "/s --http-socket=" + dir + "/./s", both, "are both", "a path of its own"},
		{"--resolv-conf=" + dir, both, dir + " is a directory", "/etc/resolv.conf"},
		{"--resolv-conf=" + dir + "/typo", both, dir + "/typo: No such file", "/etc/resolv.conf"},
		{"--resolv-conf=", both, "--resolv-conf is empty", "/etc/resolv.conf"},
		{"-r " + closedFD, attach, "ready-fd 987 is not open", "987>"},
		{"-r " + strconv.Itoa(readEnd), attach, "is not open for writing", "the writing end"},
		{"", "4242 _", "TAPNAME is empty", "tap0"},
		{"-c", "4242 tap%d", "TAPNAME tap%d", "tap0"},
	} {
		programs := map[string]func() *Exit{"attach": func() *Exit {
			_, exit := ParseAttach("epiphyte", split(c.args+" "+attach))
			return exit
		}}
		if c.operands == both {
			programs["run"] = func() *Exit { _, exit := ParseRun("epiphyte", split(c.args+" true")); return exit }
		} else {
			programs["attach"] = func() *Exit {
				_, exit := ParseAttach("epiphyte", split(c.args+" "+c.operands))
				return exit
			}
		}
		for name, parse := range programs {
			exit := parse()
			if exit == nil {
				t.Errorf("%s %s %s: accepted", name, c.args, c.operands)
				continue
			}
			if exit.Code != 1 || strings.Contains(exit.Stderr, "\n") || !strings.Contains(exit.Stderr, c.cause) || !strings.Contains(exit.Stderr, c.remedy) {
				t.Errorf("%s %s %s: status %d, %q; want %q and %q in one line", name, c.args, c.operands, exit.Code, exit.Stderr, c.cause, c.remedy)
			}
		}
	}
}

// What looks odd and may work, or what the contract demands, is taken.
func TestOddValuesThatMayWork(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"-e " + closedFD + " 4242 tap0", // status 0 right after ready
		"-r 1 4242 tap0",
		"4242 tap%d", // the caller finds out the name
		"--api-socket=127.0.0.1:9000 4242 tap0",
		"--http-socket=./127.0.0.1:9000 4242 tap0",
		"--http-socket=/run/a:b 4242 tap0",
		"--api-socket=/run/a --http-socket=/run/b 4242 tap0",
		"--resolv-conf=" + file + " 4242 tap0",
		"--cidr=169.254.0.0/16 4242 tap0",
		"--netns-type=tapfd -c 9",
	} {
		if _, exit := ParseAttach("epiphyte", split(args)); exit != nil {
			t.Errorf("%s: %+v", args, exit)
		}
	}
}

// The outbound options warn by their own names.
func TestOutboundNotices(t *testing.T) {
	a, exit := ParseAttach("slirp4netns", split("--outbound-addr=127.0.0.1 --outbound-addr6=::1 4242 tap0"))
	if exit != nil {
		t.Fatal(exit)
	}
	if want := "WARNING: Support for --outbound-addr is experimental\nWARNING: Support for --outbound-addr6 is experimental\n"; a.Notices != want {
		t.Errorf("notices %q, want %q", a.Notices, want)
	}
}

// With -c an MTU below IPv6's least means no IPv6, and it is said.
func TestNoIPv6BelowItsLeastMTU(t *testing.T) {
	for args, want := range map[string]bool{"-c6m1280": true, "-c6m1279": false, "-6m1279": true} {
		a, exit := ParseAttach("slirp4netns", split(args+" 4242 tap0"))
		if exit != nil {
			t.Fatal(exit)
		}
		if said := strings.Contains(a.Notices, "no IPv6"); a.Plan.IPv6() != want || said == want {
			t.Errorf("%s: IPv6 %v, notices %q", args, a.Plan.IPv6(), a.Notices)
		}
	}
}

// What may still come is warned about.
func TestWarnings(t *testing.T) {
	for args, want := range map[string]string{
		"--outbound-addr=192.0.2.77":    "no interface has the address 192.0.2.77",
		"--outbound-addr6=2001:db8::77": "no interface has the address 2001:db8::77",
		"--outbound-addr=127.0.0.9":     "",
		"--outbound-addr=lo":            "",
		"--outbound-addr=0.0.0.0":       "",
		"--cidr=198.51.100.0/24":        "", // no host has a route to documentation
	} {
		a, exit := ParseAttach("epiphyte", split(args+" 4242 tap0"))
		if exit != nil {
			if want != "" {
				t.Errorf("%s: %+v", args, exit)
			}
			continue
		}
		var text bytes.Buffer
		a.warn(&reporter{log: slog.New(slog.NewTextHandler(&text, nil))})
		got := text.String()
		if want == "" && got != "" || !strings.Contains(got, want) || strings.Count(got, "\n") > 1 {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}
