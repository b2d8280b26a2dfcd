package cli

import (
	"bytes"
	"strings"
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
		{[]string{"epiphyte", "netwrok"}, 1, "Usage: epiphyte ", "epiphyte: \"netwrok\" is neither a command nor a PID\n"},
		{[]string{"epiphyte", "netwrok", "ls"}, 1, "Usage: epiphyte ", "epiphyte: \"netwrok\" is neither a command nor a PID\n"},
		{[]string{"epiphyte"}, 1, "Usage: epiphyte ", ""},
		{nil, 1, "Usage: epiphyte ", ""},
	} {
		var stdout, stderr bytes.Buffer
		code := Main(t.Context(), tc.args, &stdout, &stderr)
		if code != tc.code || !strings.HasPrefix(stdout.String(), tc.stdout) || !strings.HasPrefix(stderr.String(), tc.first) || (tc.first == "" && stderr.Len() > 0) {
			t.Errorf("%q: code %d, stdout %.60q, stderr %q", tc.args, code, stdout.String(), stderr.String())
		}
	}
}
