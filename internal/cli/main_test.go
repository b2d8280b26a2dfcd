package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The name that we are called by selects the face.
func TestMain_Names(t *testing.T) {
	for _, tc := range []struct {
		args          []string
		code          int
		stdout, first string // what stdout and stderr begin with
	}{
		{[]string{"/usr/bin/epiphyte", "--version"}, 0, "epiphyte version ", ""},
		{[]string{"/usr/bin/slirp4netns", "--version"}, 0, "slirp4netns version 1.3.3\n", ""},
		{[]string{"epiphyte-dev", "--version"}, 0, "epiphyte version ", ""},
		{[]string{"epiphyte", "run", "--help"}, 0, "Usage: epiphyte run ", ""},
		{[]string{"slirp4netns", "run", "--help"}, 0, "Usage: slirp4netns [OPTION]", ""},
		{[]string{"slirp4netns", "run", "tap0"}, 1, "Usage: slirp4netns ", "PID must be a positive integer\n"},
		{[]string{"epiphyte", "help"}, 0, "Usage: epiphyte ", ""},
		{[]string{"epiphyte", "network", "help"}, 0, "Usage: epiphyte network ", ""},
		{[]string{"slirp4netns", "help", "tap0"}, 1, "Usage: slirp4netns ", "PID must be a positive integer\n"},
		{[]string{"epiphyte", "netwrok"}, 1, "", "epiphyte: there is no command \"netwrok\"; did you mean \"network\"?\n"},
		{[]string{"epiphyte", "netwrok", "ls"}, 1, "", "epiphyte: there is no command \"netwrok\"; did you mean \"network\"?\n"},
		{[]string{"epiphyte"}, 1, "", "epiphyte: a command, or a process and the name of its interface, is missing; 'epiphyte --help' shows both\n"},
		{[]string{"slirp4netns"}, 1, "Usage: slirp4netns ", ""},
		{nil, 1, "", "epiphyte: a command, "},
		{[]string{"epiphyte", "-c", "12345"}, 1, "", "epiphyte: TAPNAME is missing, the name of the interface: 'epiphyte ... 12345 tap0'\n"},
		{[]string{"epiphyte", "version"}, 0, "epiphyte version ", ""},
		{[]string{"epiphyte", "help", "run"}, 0, "Usage: epiphyte run ", ""},
		{[]string{"epiphyte", "help", "network", "create"}, 0, "Usage: epiphyte network create ", ""},
		{[]string{"epiphyte", "help", "rnu"}, 1, "", "epiphyte help: there is no command \"rnu\"; did you mean \"run\"?\n"},
		{[]string{"epiphyte", "help", "run", "true"}, 1, "", "epiphyte help: \"true\" is one argument too many\n"},
		{[]string{"epiphyte", "help", "policy", "check", "x"}, 1, "", "epiphyte help: \"x\" is one argument too many\n"},
		{[]string{"epiphyte", "run", "--allow", "deny a.example", "true"}, 1, "", "epiphyte run: --allow \"deny a.example\": leave out the word deny"},
		{[]string{"epiphyte", "flow"}, 1, "", "epiphyte: there is no command \"flow\"; did you mean \"flows\"?\n"},
		{[]string{"epiphyte", "zzzzz"}, 1, "", "epiphyte: there is no command \"zzzzz\"; 'epiphyte --help' lists them\n"},
		{[]string{"epiphyte", "flows", "--jsno"}, 1, "", "epiphyte flows: unrecognized option '--jsno'; did you mean '--json'?\n"},
	} {
		var stdout, stderr bytes.Buffer
		code := Main(t.Context(), tc.args, &stdout, &stderr)
		if code != tc.code || !strings.HasPrefix(stdout.String(), tc.stdout) || !strings.HasPrefix(stderr.String(), tc.first) || (tc.first == "" && stderr.Len() > 0) {
			t.Errorf("%q: code %d, stdout %.60q, stderr %q", tc.args, code, stdout.String(), stderr.String())
		}
	}
}

// A help text fits a terminal of 80 columns, names all commands, and puts each option of
// attach and run below a heading.
func TestHelp_Layout(t *testing.T) {
	help := func(args ...string) string {
		var stdout, stderr bytes.Buffer
		if code := Main(t.Context(), append([]string{"epiphyte"}, args...), &stdout, &stderr); code != 0 || stderr.Len() > 0 {
			t.Fatalf("%q: code %d, %s", args, code, stderr.String())
		}
		for line := range strings.Lines(stdout.String()) {
			if len(line) > helpWidth { // its end counted
				t.Errorf("%q: too long a line: %s", args, line)
			}
		}
		return stdout.String()
	}
	all := help("--help")
	for _, c := range commands() {
		if !strings.Contains(all, "\n  "+c.name+" ") {
			t.Errorf("--help does not name %s", c.name)
		}
		if c.name != versionCommand {
			help(c.name, "--help")
		}
	}
	for _, c := range networksCommands() {
		help(networkCommand, c.name, "--help")
	}
	for _, c := range policiesCommands() {
		help(policyCommand, c.name, "--help")
	}
	for _, text := range []string{all, help("run", "--help")} {
		_, others, _ := strings.Cut(text[strings.LastIndex(text, "\nOthers:\n"):], ":\n")
		for line := range strings.Lines(others) {
			if !strings.Contains(line, "--help") && !strings.Contains(line, "--version") {
				t.Errorf("below no heading: %s", line)
			}
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A help text or a version that could not be written is no success.
func TestExit_UnwrittenOutput(t *testing.T) {
	for _, args := range [][]string{{"epiphyte", "--help"}, {"slirp4netns", "--version"}, {"epiphyte", "help", "run"}, {"pasta", "--help"}} {
		var stderr bytes.Buffer
		if code := Main(t.Context(), args, fullDisk{}, &stderr); code != 1 || stderr.String() != args[0]+": no space left on device\n" {
			t.Errorf("%q: code %d, %q", args, code, stderr.String())
		}
	}
}

// A command that fails to write says so once, and not at all to a pipe that nobody reads.
func TestMain_UnwrittenOutput(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	rules := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(rules, []byte("allow a.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	r, closed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer closed.Close()
	for _, tt := range []struct {
		args []string
		code int
	}{
		{[]string{"ps"}, 1},
		{[]string{"network", "ls"}, 1},
		{[]string{"policy", "check", rules}, exitUnknown},
		{[]string{"policy", "check", rules, "a.example:443"}, exitUnknown},
		{[]string{"help"}, 1},
	} {
		args := append([]string{"epiphyte"}, tt.args...)
		var stderr bytes.Buffer
		if code := Main(t.Context(), args, full, &stderr); code != tt.code || strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%q to a full device: code %d, %q", args, code, stderr.String())
		}
		stderr.Reset()
		if code := Main(t.Context(), args, closed, &stderr); code != tt.code || stderr.Len() > 0 {
			t.Errorf("%q to a closed pipe: code %d, %q", args, code, stderr.String())
		}
	}
}
