package cli

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"epiphyte/internal/guest"
)

// TestPastaGetopt: what getopt_long of the contract reads, and what it says.
func TestPastaGetopt(t *testing.T) {
	for args, want := range map[string]Exit{
		"--host-lo-to-ns-lo --version":    {Code: 0},
		"--conf-path=/dev/null --version": {Code: 0},
		"--hel":                           {Code: 0},
		"--bogus":                         {Code: 1, Stderr: "pasta: unrecognized option '--bogus'\nUsage: pasta "},
		"--map-guest-addr2 ::1":           {Code: 1, Stderr: "pasta: unrecognized option '--map-guest-addr2'\n"},
		"-x":                              {Code: 1, Stderr: "pasta: invalid option -- 'x'\nUsage: pasta "},
		"--map":                           {Code: 1, Stderr: "pasta: option '--map' is ambiguous; possibilities: '--map-host-loopback' '--map-guest-addr'\n"},
		"--netns":                         {Code: 1, Stderr: "pasta: option '--netns' requires an argument\n"},
		"--config-net=yes":                {Code: 1, Stderr: "pasta: option '--config-net' doesn't allow an argument\n"},
		"-I":                              {Code: 1, Stderr: "pasta: option requires an argument -- 'I'\n"},
		"-m 1":                            {Code: 1, Stderr: "pasta: --mtu 1: "},
		"--resolv-conf=":                  {Code: 1, Stderr: "pasta: --resolv-conf is empty"},
		"--http-socket=127.0.0.1:80":      {Code: 1, Stderr: "pasta: --http-socket takes the path"},
		"--netns /n 1":                    {Code: 1, Stderr: "pasta: --netns and "},
		"-t 80:81 -t 80:82 --netns /n":    {Code: 1, Stderr: "pasta: -t 80:82 conflicts "},
		"--no-splice --host-lo-to-ns-lo":  {Code: 1, Stderr: "pasta: --host-lo-to-ns-lo and "},
	} {
		_, exit := ParsePasta(strings.Fields(args))
		if exit == nil || exit.Code != want.Code || !strings.HasPrefix(exit.Stderr, want.Stderr) || exit.Code == 0 && exit.Stderr != "" || exit.Code != 0 && exit.Stdout != "" {
			t.Errorf("%s: %+v, want %+v", args, exit, want)
		}
	}
}

// TestPastaAbbreviations, also of our own options, which never make one of the contract's
// ambiguous.
func TestPastaAbbreviations(t *testing.T) {
	p, exit := ParsePasta(strings.Fields("--config -qf --mt=1400 --no-map --queue 2 --publish=127.0.0.1:80 --pc cap --no-netns-q --netns /n"))
	if exit != nil {
		t.Fatal(exit)
	}
	l := p.Line
	p.Publish = p.Publish[:1] // what is forwarded by default stands behind
	if !l.Configure || !l.Quiet || !l.Foreground || p.MTU != 1400 || !l.NoMapGateway || p.Queues != 2 ||
		p.Publish[0].HostPort != 80 || p.Pcap != "cap" || l.NetNS != "/n" {
		t.Errorf("%+v, %+v", p.Options, *l)
	}
}

// TestPastaOperands: options end where the command begins.
func TestPastaOperands(t *testing.T) {
	p, exit := ParsePasta([]string{"-q", "sh", "-c", "exit 7", "--bogus"})
	if exit != nil || strings.Join(p.Line.Command, " ") != "sh -c exit 7 --bogus" {
		t.Errorf("%v, %+v", exit, p)
	}
}

func TestPastaLogLevels(t *testing.T) {
	for args, want := range map[string]slog.Level{
		"1": slog.LevelInfo, "true": slog.LevelWarn, "-q 1": slog.LevelWarn, "-d 1": slog.LevelDebug, "--trace -q 1": slog.LevelDebug,
		"--log-level=error -q 1": slog.LevelError, // podman always adds --quiet
	} {
		if p, exit := ParsePasta(strings.Fields(args)); exit != nil || p.LogLevel != want {
			t.Errorf("%s: %v, %v, want %v", args, exit, p, want)
		}
	}
}

// TestPastaSearchList: it is handed out if asked for, and the host's if no other is named.
func TestPastaSearchList(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 192.0.2.1\nsearch a.example b.example. a..b .\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string][]string{
		"":                              nil,
		"--dhcp-search":                 {"a.example", "b.example"},
		"--search c.example.":           {"c.example"},
		"--dhcp-search --search none":   nil,
		"-S c.example --no-dhcp-search": nil,
	} {
		p, exit := ParsePasta(append(strings.Fields(args), "--netns=/n"))
		if exit != nil {
			t.Fatal(exit)
		}
		cfg := guest.Config{ResolvConf: file}
		(&standing{line: p.Line}).configure(&cfg)
		if !slices.Equal(cfg.Names.Search, want) {
			t.Errorf("%q: %q, want %q", args, cfg.Names.Search, want)
		}
	}
}

// TestPastaResolver: where none is named that could be handed out, ours stands at the
// gateway.
func TestPastaResolver(t *testing.T) {
	for args, want := range map[string]string{
		"": "invalid IP", "--dhcp-dns": "192.0.2.1", "--dns-forward 192.0.2.3 --dhcp-dns": "192.0.2.3", "--dns 192.0.2.4": "invalid IP", "--dhcp-dns --dns none": "invalid IP",
	} {
		p, exit := ParsePasta(append(strings.Fields(args), "-4", "-a", "192.0.2.2", "-g", "192.0.2.1", "--netns=/n"))
		if exit != nil {
			t.Fatal(exit)
		}
		if err := p.copyHost(); err != nil {
			t.Fatal(err)
		}
		p.Standing.close()
		if got := p.Plan.DNS.String(); got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
}
