package test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// told runs the program as name and returns what it says and its exit status.
func told(t *testing.T, name string, stdout *os.File, args ...string) (out, err string, code int) {
	t.Helper()
	cmd := exec.Command(env.Binary)
	cmd.Args = append([]string{name}, args...)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	if stdout != nil {
		cmd.Stdout = stdout
	}
	cmd.Run()
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// A slip on the command line is answered by one line; where a word looks like a command or
// an option, by that as well.
func TestHelp_Slips(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, says string }{
		{"-c 12345", "TAPNAME is missing"},
		{"flow", `did you mean "flows"?`},
		{"rnu true", `did you mean "run"?`},
		{"run --disable-nds", "did you mean '--disable-dns'?"},
		{"network creat", `did you mean "create"?`},
		{"help netwrok", `did you mean "network"?`},
		{"", "'epiphyte --help'"},
	} {
		out, err, code := told(t, "epiphyte", nil, strings.Fields(c.args)...)
		if code != 1 || out != "" || !strings.HasPrefix(err, "epiphyte") || !strings.Contains(err, c.says) || strings.Count(err, "\n") != 1 {
			t.Errorf("epiphyte %s: status %d, stdout %q, stderr %q", c.args, code, out, err)
		}
	}
	if out, err, code := told(t, "slirp4netns", nil, "-c", "12345"); code != 1 || err != "\n" && err != "" || !strings.HasPrefix(out, "Usage: slirp4netns ") {
		t.Errorf("slirp4netns -c 12345: status %d, stdout %.40q, stderr %q", code, out, err)
	}
}

// What was asked for and could not be written is a failure.
func TestHelp_NoRoomForIt(t *testing.T) {
	t.Parallel()
	full := must(os.OpenFile("/dev/full", os.O_WRONLY, 0))(t)
	defer full.Close()
	for _, args := range []string{"--help", "--version", "version", "help run", "flows --help"} {
		if _, err, code := told(t, "epiphyte", full, strings.Fields(args)...); code != 1 || !strings.Contains(err, "no space left on device") {
			t.Errorf("epiphyte %s >/dev/full: status %d, %q", args, code, err)
		}
	}
}
