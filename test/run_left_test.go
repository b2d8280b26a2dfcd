package test

import (
	"strconv"
	"strings"
	"testing"
)

// A shell that stops itself gives the terminal back, and has it again when it is continued.
func TestRun_Suspend(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	s := n.terminal(t, 80, 24, `bin=$0; export bin; exec bash --norc --noprofile -i`)
	s.shows(t, "$")
	s.keys(`$bin run --quiet bash --norc --noprofile -i`, "Enter")
	n.awaitGuests(t, 1)
	s.keys("echo in-$((1+1))", "Enter")
	s.shows(t, "in-2")
	s.keys("suspend", "Enter")
	s.shows(t, "Stopped")
	s.keys("echo out-$((2+2))", "Enter")
	s.shows(t, "out-4")
	s.keys("fg", "Enter")
	s.keys("echo again-$((3+3))-$(id -u)", "Enter")
	s.shows(t, "again-6-0")
}

// What a command leaves running is named, or ends with it.
func TestRun_LeavesProcesses(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	const command = "sleep 5 & sleep 5 & (exit 3)"
	_, stderr, code := n.try(t, "run", "sh", "-c", command)
	if code != 3 || strings.Count(stderr, "go on without a network; --kill-children ends them") != 1 {
		t.Errorf("left: status %d, %q", code, stderr)
	}
	for _, args := range [][]string{{"--kill-children", "sh", "-c", command}, {"sh", "-c", "x=$( (sleep 0.1 &) ); sleep 0.5; exit 3"}} {
		if _, stderr, code := n.try(t, append([]string{"run"}, args...)...); code != 3 || stderr != "" {
			t.Errorf("%q: status %d, %q", args, code, stderr)
		}
	}
}

// The end of the target ends the program where that was asked for.
func TestAttach_ExitWithTarget(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	guest := newGuest(t)
	target := guest.Command(t.Context(), "sh", "-c", "echo in; exec sleep 100")
	in := must(target.StdoutPipe())(t)
	if err := guest.Start(target); err != nil {
		t.Fatal(err)
	}
	in.Read(make([]byte, 1))
	h := n.start(t, "-c", "--exit-with-target", strconv.Itoa(target.Process.Pid), "tap0")
	n.awaitGuests(t, 1)
	target.Process.Kill()
	target.Wait()
	if code, sig, err := h.Exit(timeout(t, deadline)); code != 0 || sig != 0 || err != nil {
		t.Errorf("status %d, signal %v, %v: %s", code, sig, err, h.Stderr)
	}
	if _, stderr, code := n.try(t, "--exit-with-target", "--netns-type=path", "/proc/self/ns/net", "tap0"); code != 1 || !strings.Contains(stderr, "name a PID") {
		t.Errorf("of a path: status %d, %q", code, stderr)
	}
}
