package cli

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"epiphyte/internal/api"
	"epiphyte/internal/api/apitest"
	"epiphyte/internal/pasta"
)

// pestoTo runs a pesto against a running program's forwards, and returns its exit code and
// both of its streams.
func pestoTo(t *testing.T, socket, line string) (int, string) {
	t.Helper()
	var stdout, stderr strings.Builder
	args := append([]string{"/usr/bin/pesto"}, strings.Fields(strings.ReplaceAll(line, "SOCK", socket))...)
	code := Main(t.Context(), args, &stdout, &stderr)
	out := stdout.String() + stderr.String()
	if (code == 0) != (stderr.Len() == 0) || strings.Count(stderr.String(), "\n") > 1 {
		t.Errorf("%s: exit code %d, stderr %q", line, code, stderr.String())
	}
	return code, strings.ReplaceAll(out, socket, "SOCK")
}

// counted counts what is asked of it.
type counted struct {
	apitest.Forwards
	changes, lists atomic.Int32
}

func (c *counted) Change(ctx context.Context, change pasta.Change) error {
	c.changes.Add(1)
	return c.Forwards.Change(ctx, change)
}

func (c *counted) List() pasta.Table {
	c.lists.Add(1)
	return c.Forwards.List()
}

// TestPestoAsksOnce: a thousand ports are one request, like one port.
func TestPestoAsksOnce(t *testing.T) {
	socket, forwards := filepath.Join(t.TempDir(), "s"), new(counted)
	s, err := api.ListenHTTP(t.Context(), socket, api.Config{Ports: new(apitest.Ports), Forwards: forwards, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(context.Background())
	defer s.Close()
	line := "--show --add"
	for n := range 1000 {
		line += fmt.Sprintf(" -t 0.0.0.0/%d:10.89.0.2/80", 20000+n)
	}
	if code, out := pestoTo(t, socket, line+" SOCK"); code != 0 || strings.Count(out, "\n") != 1002 {
		t.Errorf("exit status %d, %.200s", code, out)
	}
	if changes, lists := forwards.changes.Load(), forwards.lists.Load(); changes != 1 || lists != 1 {
		t.Errorf("%d changes and %d listings are asked for", changes, lists)
	}
}

// TestPesto: a session; each call sees what those before it have left.
func TestPesto(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	s, err := api.ListenHTTP(t.Context(), socket, api.Config{
		Ports: new(apitest.Ports), Forwards: new(apitest.Forwards), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(context.Background())
	defer s.Close()
	for _, step := range []struct {
		line string
		want string // what it prints, or what is shown then
		code int
	}{
		{"SOCK", "", 0},
		{"--add -t 0.0.0.0/8080:10.89.0.2/80 -t [::]/8080:fd00::5/80 SOCK", "TCP [0.0.0.0]:8080  =>  [10.89.0.2]:80; TCP [::]:8080  =>  [fd00::5]:80", 0},
		{"--add -t 0.0.0.0/8080:10.89.0.2/80 SOCK", "TCP [0.0.0.0]:8080  =>  [10.89.0.2]:80; TCP [::]:8080  =>  [fd00::5]:80", 0},
		{"--delete -t [::]/8080:fd00::5/80 SOCK", "TCP [0.0.0.0]:8080  =>  [10.89.0.2]:80", 0},
		{"-D -t 9999 -u 9999 SOCK", "TCP [0.0.0.0]:8080  =>  [10.89.0.2]:80", 0},
		{"-A -u 53 -t 0.0.0.0/8080:10.89.0.3/80 SOCK", "pesto: -t 0.0.0.0/8080:10.89.0.3/80 conflicts with -t 0.0.0.0/8080:10.89.0.2/80: port 8080 is forwarded already; delete that one first, or choose another port", 1},
		{"-A -u 53 -t 81 SOCK", "pesto: forward -t 81: listen on tcp [::]:81: address already in use (EADDRINUSE)", 1},
		{"SOCK -D -t 0.0.0.0/8080:10.89.0.2/80 -A -t 0.0.0.0/8080:10.89.0.3/80", "TCP [0.0.0.0]:8080  =>  [10.89.0.3]:80", 0},
		{"--udp-ports=53 -A SOCK", "TCP [0.0.0.0]:8080  =>  [10.89.0.3]:80; UDP *:53  =>  53", 0},
		{"-A --tcp-ns 5432 SOCK", "TCP [0.0.0.0]:8080  =>  [10.89.0.3]:80; UDP *:53  =>  53; TCP *:5432  =>  5432", 0},
		{"--clear HOST SOCK", "TCP *:5432  =>  5432", 0},
		{"-C SPLICE -u 53 SOCK", "UDP *:53  =>  53", 0},
		{"-t 1000-1009 -T 80 SOCK", "TCP *:1000-1009  =>  1000-1009; TCP *:80  =>  80", 0},
		{"-t none SOCK", "", 0},
	} {
		code, out := pestoTo(t, socket, step.line)
		if code == 0 {
			_, out = pestoTo(t, socket, "--show SOCK")
			shown, ok := strings.CutPrefix(out, "passt/pasta configuration (SOCK)\n")
			if !ok {
				t.Errorf("%s: shows %q", step.line, out)
			}
			var lines []string
			for line := range strings.Lines(shown) {
				if rule, ok := strings.CutPrefix(line, "    "); ok {
					lines = append(lines, strings.TrimSuffix(rule, "\n"))
				}
			}
			out = strings.Join(lines, "; ")
		}
		if diff := cmp.Diff(step.want, strings.TrimSuffix(out, "\n")); code != step.code || diff != "" {
			t.Errorf("%s: exit code %d, %s", step.line, code, diff)
		}
	}
	if _, out := pestoTo(t, socket, "-s -A -t 80:8080 -T 22 SOCK"); out != `passt/pasta configuration (SOCK)
  HOST
    TCP *:80  =>  8080
  SPLICE
    TCP *:22  =>  22
` {
		t.Error(out)
	}
}

func TestPestoCommandLine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	for line, want := range map[string]string{
		"":                     "pesto: the path of one socket is required, the one of pasta's -c",
		"a b":                  "pesto: the path of one socket is required, the one of pasta's -c",
		"SOCK":                 "pesto: SOCK: nobody listens there: start pasta with -c SOCK",
		"--frob SOCK":          "pesto: unrecognized option '--frob'",
		"-x SOCK":              "pesto: invalid option -- 'x'",
		"-t":                   "pesto: option requires an argument -- 't'",
		"-A -t 0 SOCK":         `pesto: -t "0": "0" is not a port, 1 to 65535, as in 8080, 8080:80 or 127.0.0.1/8080:80`,
		"-C TAP SOCK":          `pesto: "TAP" has no ports to clear: HOST has the host's, SPLICE the namespace's`,
		"-t 1 -A -t 2 -D SOCK": "pesto: some PORTS stand before both --add and --delete: put one of them first",
	} {
		if code, out := pestoTo(t, socket, line); code != 1 || out != want+"\n" {
			t.Errorf("%s: exit code %d, %q", line, code, out)
		}
	}
	if code, out := pestoTo(t, socket, "--version"); code != 0 || !strings.HasPrefix(out, "pesto (epiphyte ") {
		t.Errorf("exit code %d, %q", code, out)
	}
	if code, out := pestoTo(t, socket, "--help"); code != 0 || !strings.Contains(out, "-t, --tcp-ports PORTS") {
		t.Errorf("exit code %d, %q", code, out)
	}
}
