package cli

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/pasta"
	"epiphyte/tap"
)

// attachDefaults is what a bare "4242 tap0" means.
func attachDefaults(t *testing.T) Attach {
	t.Helper()
	p, err := addressing.New(addressing.DefaultIPv4(), netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	return Attach{
		Options: Options{
			Plan:       p,
			MTU:        1500,
			ResolvConf: "/etc/resolv.conf",
			PcapSize:   defaultPcapSize,
			LogSize:    pasta.DefaultLogSize,
			LogFormat:  "text",
			Bulk:       "auto",
		},
		Target: tap.Target{PID: 4242},
		Name:   "tap0",
	}
}

func planOf(t *testing.T, v4 string, v6 bool) addressing.Plan {
	t.Helper()
	var p6 netip.Prefix
	if v6 {
		p6 = addressing.DefaultIPv6()
	}
	p, err := addressing.New(netip.MustParsePrefix(v4), p6)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// closedFD is a number that no descriptor of the test has.
const closedFD = "987"

func TestParseAttach_Accepted(t *testing.T) {
	dir := t.TempDir()
	notOpen, stdout := FD{given: true, num: 987}, FD{given: true, num: 1, open: true}
	for _, tc := range []struct {
		name string
		args []string
		want func(a *Attach)
	}{
		{"bare", []string{"4242", "tap0"}, func(*Attach) {}},
		{"podman 4 order", []string{
			"--disable-host-loopback", "--mtu=65520", "--cidr=10.0.3.0/24", "--enable-ipv6", "-c", "-e", closedFD, "-r", "1",
			"--netns-type=path", dir, "tap0"}, func(a *Attach) {
			a.DisableHostLoopback = true
			a.MTU = 65520
			a.Plan = planOf(t, "10.0.3.0/24", true)
			a.Configure = true
			a.ExitFD, a.ReadyFD = notOpen, stdout
			a.Target = tap.Target{NetNS: dir}
			a.Notices = "WARNING: Support for IPv6 is experimental\n"
		}},
		{"RootlessKit", []string{"--mtu", "65520", "-r", "1", "--disable-host-loopback", "4242", "tap0"}, func(a *Attach) {
			a.MTU = 65520
			a.ReadyFD = stdout
			a.DisableHostLoopback = true
		}},
		{"RootlessKit with a detached network namespace", []string{
			"--mtu", "65520", "--userns-path=" + dir, "--netns-type=path", dir + "/.", "tap0"}, func(a *Attach) {
			a.MTU = 65520
			a.Target = tap.Target{NetNS: dir + "/.", UserNS: dir}
		}},
		{"options after operands", []string{"4242", "-c", "tap0", "-m", "1400"}, func(a *Attach) {
			a.Configure = true
			a.MTU = 1400
		}},
		{"cluster", []string{"-c6m1400", "4242", "tap0"}, func(a *Attach) {
			a.Configure = true
			a.MTU = 1400
			a.Plan = planOf(t, "10.0.2.0/24", true)
			a.Notices = "WARNING: Support for IPv6 is experimental\n"
		}},
		{"-- ends options", []string{"4242", "--", "-c"}, func(a *Attach) { a.Name = "-c" }},
		{"abbreviations", []string{"--conf", "--disable-h", "--ci", "10.1.0.0/16", "--mt=1300", "--t", "netns", "4242", "tap0"}, func(a *Attach) {
			a.Configure, a.DisableHostLoopback, a.MTU = true, true, 1300
			a.Plan = planOf(t, "10.1.0.0/16", false)
		}},
		{"last wins", []string{"-m", "1300", "--mtu=1301", "-m1302", "4242", "tap0"}, func(a *Attach) { a.MTU = 1302 }},
		{"option as value", []string{"--macaddress", "-c", "-m", "1300", "4242", "tap0", "-c", "--macaddress=2:0:0:0:0:5g"}, func(a *Attach) {
			a.MTU = 1300
			a.Configure = true
			a.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 5}
		}},
		{"deprecated alias", []string{"--no-host-loopback", "4242", "tap0"}, func(a *Attach) {
			a.DisableHostLoopback = true
			a.Notices = "WARNING: --no-host-loopback is deprecated, use --disable-host-loopback\n"
		}},
		{"own option does not shadow the alias's abbreviation", []string{"--no-", "4242", "tap0"}, func(a *Attach) {
			a.DisableHostLoopback = true
			a.Notices = "WARNING: --no-host-loopback is deprecated, use --disable-host-loopback\n"
		}},
		{"own option by abbreviation", []string{"--no-o", "--que", "2", "4242", "tap0"}, func(a *Attach) {
			a.NoOffload = true
			a.Queues = 2
		}},
		{"stray third argument", []string{"4242", "tap0", "tap1"}, func(a *Attach) {
			a.Notices = "WARNING: too many arguments\n"
		}},
		{"long name is cut", []string{"4242", "a-very-long-tap-name"}, func(a *Attach) { a.Name = "a-very-long-tap" }},
		{"unknown netns type is path", []string{"--netns-type=whatever", dir, "tap0"}, func(a *Attach) {
			a.Target = tap.Target{NetNS: dir}
		}},
		{"pid with a user namespace of its own", []string{"--userns-path", dir, "4242", "tap0"}, func(a *Attach) {
			a.Target = tap.Target{NetNS: "/proc/4242/ns/net", UserNS: dir}
		}},
		{"tapfd", []string{"--netns-type=tapfd", "9"}, func(a *Attach) {
			a.Target = tap.Target{FD: 9}
			a.Name = ""
		}},
		{"tapfd with a stray argument", []string{"--netns-type=tapfd", "9", "tap0"}, func(a *Attach) {
			a.Target = tap.Target{FD: 9}
			a.Name = ""
			a.Notices = "WARNING: too many arguments\n"
		}},
		{"number like strtol", []string{"-m", " +1400", " +4242", "tap0"}, func(a *Attach) { a.MTU = 1400 }},
		{"largest MTU", []string{"-m65521", "4242", "tap0"}, func(a *Attach) { a.MTU = 65521 }},
		{"own options", []string{"--log-level=debug", "--log-format=json", "--resolv-conf=/dev/null", "--no-offload", "--queues=16", "--disable-dns", "4242", "tap0"}, func(a *Attach) {
			a.LogLevel = slog.LevelDebug
			a.LogFormat = "json"
			a.ResolvConf = "/dev/null"
			a.NoOffload = true
			a.Queues = 16
			a.DisableDNS = true
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := attachDefaults(t)
			tc.want(&want)
			got, exit := ParseAttach("slirp4netns", tc.args)
			if exit != nil {
				t.Fatalf("exit %+v", exit)
			}
			if got.ReadyFD.null > 0 { // opened for a standard stream, whatever its number
				unix.Close(got.ReadyFD.null)
				got.ReadyFD.null = 0
			}
			if diff := cmp.Diff(want, *got, cmp.AllowUnexported(FD{}), cmp.Comparer(equalPlan)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func equalPlan(a, b addressing.Plan) bool { return reflect.DeepEqual(a, b) }

func TestParseAttach_Refused(t *testing.T) {
	const usage = "Usage: slirp4netns [OPTION]... PID|PATH|FD [TAPNAME]"
	exists := t.TempDir()
	missing := filepath.Join(exists, "missing")
	for _, tc := range []struct {
		args   string // separated by spaces; _ is an empty argument
		stderr string
		usage  bool
	}{
		{"", "", true},
		{"4242", "", true},
		{"-- -c", "", true},
		{"--netns-type=tapfd", "", true},
		{"--netns-type=path " + exists, "", true},

		{"--foo 4242 tap0", "slirp4netns: unrecognized option '--foo'", true},
		{"-x 4242 tap0", "slirp4netns: invalid option -- 'x'", true},
		{"-cx6 4242 tap0", "slirp4netns: invalid option -- 'x'", true},
		{"-c -1 4242 tap0", "slirp4netns: invalid option -- '1'", true},
		{"4242 tap0 -m", "slirp4netns: option requires an argument -- 'm'", true},
		{"4242 tap0 --mtu", "slirp4netns: option '--mtu' requires an argument", true},
		{"--configure=3 4242 tap0", "slirp4netns: option '--configure' doesn't allow an argument", true},
		{"--conf=3 4242 tap0", "slirp4netns: option '--configure' doesn't allow an argument", true},
		{"--enable-s 4242 tap0", "slirp4netns: option '--enable-s' is ambiguous; possibilities: '--enable-sandbox' '--enable-seccomp'", true},
		{"--disable 4242 tap0", "slirp4netns: option '--disable' is ambiguous; possibilities: '--disable-host-loopback' '--disable-dns'", true},

		{"-m 0 4242 tap0", "MTU must be a positive integer (< 65522)", true},
		{"-m 65522 4242 tap0", "MTU must be a positive integer (< 65522)", true},
		{"-m 4294968796 4242 tap0", "MTU must be a positive integer (< 65522)", true}, // 2^32 + 1500
		{"-m -5 4242 tap0", "MTU must be a positive integer (< 65522)", true},
		{"-m 1500x 4242 tap0", "MTU must be a positive integer (< 65522)", true},
		{"-m=1500 4242 tap0", "MTU must be a positive integer (< 65522)", true},
		{"--mtu= 4242 tap0", "MTU must be a positive integer (< 65522)", true},
		{"-m 67 4242 tap0", "cannot set MTU: Invalid argument (an IPv4 link carries at least 68 bytes)", false},
		{"-e abc 4242 tap0", "exit-fd must be a non-negative integer", true},
		{"-e -1 4242 tap0", "exit-fd must be a non-negative integer", true},
		{"-r 3x 4242 tap0", "ready-fd must be a non-negative integer", true},
		{"--userns-path=" + missing + " 4242 tap0", "userns path doesn't exist: " + missing, true},
		{"--userns-path= 4242 tap0", "userns path doesn't exist: ", true},
		{"--target-type=x 4242 tap0", `--target-type must be either "netns" or "bess"`, true},

		{"abc tap0", "PID must be a positive integer", true},
		{"0 tap0", "PID must be a positive integer", true},
		{"1x tap0", "PID must be a positive integer", true},
		{"_ tap0", "PID must be a positive integer", true},
		{"4294967297 tap0", "PID must be a positive integer", true},
		{"--netns-type=path " + missing + " tap0", "existing path expected when --netns-type=path: No such file or directory", true},
		{"--netns-type=tapfd abc", "TAPFD must a file descriptor", true},

		{"--macaddress=02:00:00:00:00:01 4242 tap0", "--macaddr cannot be specified when --configure or -c is not specified", true},
		{"-c --macaddress=02:00 4242 tap0", "macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':'): \"02:00\"", false},
		{"-c --macaddress=2:0:0:0:0:0:0 4242 tap0", "macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':'): \"2:0:0:0:0:0:0\"", false},
		{"-c --macaddress=2:0:0:0:0:100 4242 tap0", "macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':'): \"2:0:0:0:0:100\"", false},
		{"-c --macaddress=2:0:0:0:0:gg 4242 tap0", "macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':'): \"2:0:0:0:0:gg\"", false},
		{"-c --macaddress=1:0:0:0:0:0 4242 tap0", "macaddress has to be a unicast address other than zero: \"1:0:0:0:0:0\"", false},

		{"--cidr=10.0.2.0/26x 4242 tap0", "invalid CIDR: 10.0.2.0/26x", false},
		{"--cidr=10.0.2.300/24 4242 tap0", "invalid network address: 10.0.2.300", false},
		{"--cidr=10.0.2.100/26 4242 tap0", "prefix length needs to be 1-25", false},
		{"--cidr=10.0.2.100/24 4242 tap0", "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24", false},
		{"--cidr=1 -c --macaddress=0 4242 tap0", "invalid CIDR: 1", false},

		// Order: the first fault from the left is the one reported.
		{"-m 0 --foo", "MTU must be a positive integer (< 65522)", true},
		{"--foo -m 0", "slirp4netns: unrecognized option '--foo'", true},
		{"-m 0 -h", "MTU must be a positive integer (< 65522)", true},
		{"-m 0 --version", "MTU must be a positive integer (< 65522)", true},

		{"--log-level=loud 4242 tap0", "--log-level must be one of debug, info, warn, error", true},
		{"--log-format=xml 4242 tap0", "--log-format must be one of text, json", true},
	} {
		t.Run(tc.args, func(t *testing.T) {
			_, exit := ParseAttach("slirp4netns", split(tc.args))
			if exit == nil {
				t.Fatal("accepted")
			}
			if exit.Code != 1 || exit.Stderr != tc.stderr {
				t.Errorf("code %d, stderr %q; want 1, %q", exit.Code, exit.Stderr, tc.stderr)
			}
			if strings.HasPrefix(exit.Stdout, usage) != tc.usage {
				t.Errorf("stdout %q; want usage: %v", exit.Stdout, tc.usage)
			}
		})
	}
}

// A notice that was due before the fault is printed with it.
func TestParseAttach_NoticeBeforeFault(t *testing.T) {
	_, exit := ParseAttach("slirp4netns", []string{"-6", "-m", "0"})
	if exit == nil || !strings.HasPrefix(exit.Stdout, "WARNING: Support for IPv6 is experimental\nUsage: ") {
		t.Errorf("exit %+v", exit)
	}
}

// Callers that look for the options in the help text pass them, and rely on them.
func TestParseAttach_Sandbox(t *testing.T) {
	for args, want := range map[string]Options{
		"":                                  {},
		"--enable-sandbox":                  {RequireFiles: true},
		"--create-sandbox":                  {RequireFiles: true},
		"--enable-seccomp":                  {RequireCalls: true},
		"--enable-sandbox --enable-seccomp": {RequireFiles: true, RequireCalls: true},
		"--sandbox=off":                     {Unconfined: true},
	} {
		got, exit := ParseAttach("slirp4netns", split(args+" 4242 tap0"))
		if exit != nil {
			t.Errorf("%s: %+v", args, exit)
			continue
		}
		if got.Unconfined != want.Unconfined || got.RequireFiles != want.RequireFiles || got.RequireCalls != want.RequireCalls {
			t.Errorf("%s: %+v", args, got.Options)
		}
	}
	_, exit := ParseAttach("slirp4netns", split("--enable-seccomp --sandbox=off 4242 tap0"))
	if exit == nil || exit.Code != 1 || exit.Stderr != "--sandbox=off contradicts --enable-sandbox and --enable-seccomp" {
		t.Errorf("off and on: %+v", exit)
	}
}

func helpOf(t *testing.T, prog string) string {
	t.Helper()
	_, exit := ParseAttach(prog, []string{"--help"})
	if exit == nil || exit.Code != 0 || exit.Stderr != "" {
		t.Fatalf("exit %+v", exit)
	}
	return exit.Stdout
}

// What podman, RootlessKit and dockerd-rootless.sh search the help text for, and
// every other option of the contract, of the functions that exist.
func TestHelp_WhatCallersLookFor(t *testing.T) {
	for _, prog := range []string{"slirp4netns", "epiphyte"} {
		words := strings.Fields(helpOf(t, prog))
		for _, flag := range []string{
			"-c,", "--configure", "-e,", "--exit-fd", "-r,", "--ready-fd", "-m,", "--mtu", "-6,", "--enable-ipv6", "-a,", "--api-socket",
			"--cidr", "--disable-host-loopback", "--no-host-loopback", "--netns-type", "--userns-path", "--outbound-addr", "--outbound-addr6",
			"--disable-dns", "--macaddress", "--target-type", "--enable-sandbox", "--enable-seccomp", "-h,", "--help", "-v,", "--version",
		} {
			found := false
			for _, w := range words {
				found = found || w == flag // grep -w
			}
			if !found {
				t.Errorf("%s --help lacks %s as a word", prog, flag)
			}
		}
	}
}

// Every option that the help text shows is accepted, and acted upon: with a
// sample value it changes the result, ends the program, or says something.
func TestHelp_EveryOptionWorks(t *testing.T) {
	dir := t.TempDir()
	samples := map[string][]string{
		"--exit-fd": {closedFD}, "--ready-fd": {"1"}, "--mtu": {"1400"}, "--cidr": {"10.1.0.0/16"},
		"--netns-type": {"tapfd"}, "--userns-path": {dir}, "--macaddress": {"02:00:00:00:00:01", "-c"},
		"--log-level": {"debug"}, "--log-format": {"json"}, "--resolv-conf": {"/dev/null"}, "--publish": {"8080:80"}, "--publish-mode": {"stack"}, "--bulk": {"never"}, "--expose-host": {"5432:80"}, "--queues": {"2"}, "--sandbox": {"off"}, "--cidr6": {"fd01::/64", "-6"}, "--api-socket": {"/a"}, "--http-socket": {"/h"},
		"--pcap": {"/p"}, "--pcap-size": {"1M"}, "--pcap-snaplen": {"96"}, "--log-file": {"/l"}, "--log-size": {"8k"}, "--stats": {"5"},
		"--policy": {"/p"}, "--allow": {"a.example:443"}, "--policy-log": {"/l", "--allow=a.example:443"},
		"--outbound-addr": {"127.0.0.1"}, "--outbound-addr6": {"::1"},
	}
	base, exit := ParseAttach("epiphyte", []string{"4242", "tap0"})
	if exit != nil {
		t.Fatal(exit)
	}
	seen := 0
	for line := range strings.Lines(helpOf(t, "epiphyte")) {
		if !strings.HasPrefix(line, "  ") {
			continue
		}
		for _, w := range strings.Fields(line[:min(len(line), helpColumn)]) {
			w = strings.TrimSuffix(w, ",")
			if !strings.HasPrefix(w, "--") || w == "--target-type" { // its only choice is the default
				continue
			}
			seen++
			args := append(append([]string{w}, samples[w]...), "4242", "tap0")
			got, exit := ParseAttach("epiphyte", args)
			if exit != nil {
				if exit.Code != 0 {
					t.Errorf("%q: %+v", args, exit)
				}
				continue
			}
			if cmp.Equal(*base, *got, cmp.AllowUnexported(FD{}), cmp.Comparer(equalPlan)) {
				t.Errorf("%q changes nothing", args)
			}
		}
	}
	if seen < 18 {
		t.Errorf("only %d options found in the help text", seen)
	}
}

// -h and -v act at once, whatever follows.
func TestParseAttach_HelpAndVersionActAtOnce(t *testing.T) {
	for _, args := range []string{"-h", "--help", "--he", "-h --foo", "-h -m 0", "-ch", "4242 tap0 extra -h", "-v", "--version", "-v -x", "-6v"} {
		_, exit := ParseAttach("slirp4netns", split(args))
		if exit == nil || exit.Code != 0 || exit.Stderr != "" || exit.Stdout == "" {
			t.Errorf("%s: %+v", args, exit)
		}
	}
}

func TestVersion_WhatCallersLookFor(t *testing.T) {
	lines := strings.Split(versionText("slirp4netns"), "\n")
	if lines[0] != "slirp4netns version 1.3.3" {
		t.Errorf("line 1 is %q", lines[0])
	}
	for _, prog := range []string{"slirp4netns", "epiphyte"} {
		text := versionText(prog)
		if !strings.HasPrefix(text, prog+" version ") {
			t.Errorf("%s: begins with %.20q", prog, text)
		}
		for _, want := range []string{"\nlibslirp: 4.8.0", "\nSLIRP_CONFIG_VERSION_MAX: 5\n", "\ncommit: "} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: lacks %q in %q", prog, want, text)
			}
		}
	}
}

func TestParseAttach_UsernsPathMustExistWhileParsing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "user")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, exit := ParseAttach("slirp4netns", []string{"--userns-path", path, "--netns-type=path", path, "tap0"}); exit != nil {
		t.Errorf("exit %+v", exit)
	}
}

// split separates arguments at spaces; _ stands for an empty one.
func split(s string) []string {
	args := strings.Fields(s)
	for i, a := range args {
		if a == "_" {
			args[i] = ""
		}
	}
	return args
}
