package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"epiphyte/test/harness"
)

// psGuest is what 'ps --json' says of a guest.
type psGuest struct {
	Program, Process int
	Command          []string
	Interface, IPv4  string
	Network, Member  string // of a network's
}

// ps lists the running guests.
func (n *networks) ps(t testing.TB) []psGuest {
	t.Helper()
	var doc struct{ Guests []psGuest }
	if err := json.Unmarshal([]byte(n.do(t, "ps", "--json")), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Guests
}

// awaitGuests waits until so many guests are found.
func (n *networks) awaitGuests(t testing.TB, count int) (list []psGuest) {
	t.Helper()
	eventually(t, deadline, func() error {
		if list = n.ps(t); len(list) != count {
			return fmt.Errorf("guests %+v, want %d", list, count)
		}
		return nil
	})
	return list
}

// A running guest is found without a word about sockets: by ps, by the commands that ask
// and change it while it is the only one, and by its number otherwise. What is left of one
// that was killed goes.
func TestFind_RunningGuests(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	if _, err, code := n.try(t, "flows"); code != 1 || !strings.Contains(err, "no guest of yours is running") {
		t.Errorf("flows without a guest: status %d, %q", code, err)
	}
	first := n.start(t, "run", "sleep", "100")
	g := n.awaitGuests(t, 1)[0]
	if g.Program == 0 || g.Process == 0 || g.Interface != "tap0" || !slices.Equal(g.Command, []string{"sleep", "100"}) {
		t.Errorf("ps: %+v", g)
	}
	if out := n.do(t, "ps"); !strings.Contains(out, fmt.Sprint(g.Program)) || !strings.Contains(out, "sleep 100") {
		t.Errorf("ps: %s", out)
	}
	if out := n.do(t, "publish", "127.0.0.1:18099:80"); !strings.Contains(out, "127.0.0.1:18099") {
		t.Errorf("publish: %s", out)
	}
	for _, command := range []string{"flows", "ports", "stats"} {
		n.do(t, command)
	}
	second := n.start(t, "run", "sleep", "200")
	list := n.awaitGuests(t, 2)
	_, err, code := n.try(t, "ports")
	if code != 1 || !strings.Contains(err, "--id") || !strings.Contains(err, "(sleep 100)") || !strings.Contains(err, "(sleep 200)") {
		t.Errorf("ports of two guests: status %d, %q", code, err)
	}
	if out := n.do(t, "ports", "--id", fmt.Sprint(g.Process)); !strings.Contains(out, "18099") {
		t.Errorf("ports by the number: %s", out)
	}
	other := list[1]
	if other.Program == g.Program {
		other = list[0]
	}
	if out := n.do(t, "ports", "-i", fmt.Sprint(other.Program)); strings.Contains(out, "18099") {
		t.Errorf("the other's ports: %s", out)
	}
	second.Signal(syscall.SIGKILL)
	n.awaitGuests(t, 1)
	first.Signal(syscall.SIGTERM) // the command's end is ours
	n.awaitGuests(t, 0)
	if left := must(filepath.Glob(filepath.Join(n.dir, "epiphyte/guests/*")))(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// Namespaces that were given a network by hand are found as well, unless
// a program has started us, which waits for readiness.
func TestFind_Attached(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	guest := newGuest(t)
	h := n.start(t, "-c", fmt.Sprint(guest.PID), "tap0")
	g := n.awaitGuests(t, 1)[0]
	if g.Process != guest.PID || g.Command != nil || g.Interface != "tap0" {
		t.Errorf("ps: %+v", g)
	}
	h.Signal(syscall.SIGTERM)
	n.awaitGuests(t, 0)

	cfg := n.cfg
	cfg.Args = []string{"-c", "-r", harness.ReadyFD, fmt.Sprint(newGuest(t).PID), "tap0"}
	h = must(env.Start(timeout(t, deadline), cfg))(t)
	t.Cleanup(h.Kill)
	if list := n.ps(t); len(list) > 0 {
		t.Errorf("a caller's guest is found: %+v", list)
	}
}

func TestFind_Exec(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.start(t, "run", "sleep", "100")
	g := n.awaitGuests(t, 1)[0]
	out := n.do(t, "exec", "sh", "-c", "readlink /proc/self/ns/net /proc/self/ns/mnt; id -u; ip -br addr show tap0")
	want := must(os.Readlink(fmt.Sprintf("/proc/%d/ns/net", g.Process)))(t) + "\n" +
		must(os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", g.Process)))(t) + "\n0\n"
	if !strings.HasPrefix(out, want) || !strings.Contains(out, "10.0.2.100/24") {
		t.Errorf("in the guest: %q, want %q and its address", out, want)
	}
	for command, status := range map[string]int{"exit 7": 7, "kill -9 $$": 137} {
		if _, err, code := n.try(t, "exec", "sh", "-c", command); code != status || err != "" {
			t.Errorf("exec %s: status %d, %q", command, code, err)
		}
	}
	if _, err, code := n.try(t, "exec", "no-such-command"); code != 127 || !strings.Contains(err, "not found") {
		t.Errorf("a command that there is not: status %d, %q", code, err)
	}
	if _, err, code := n.try(t, "exec", "--id", "1", "true"); code != 1 || !strings.Contains(err, `there is no guest "1"`) {
		t.Errorf("another number: status %d, %q", code, err)
	}
}

// The end of a program that is watched is no failure, and is said.
func TestFind_WatchTheEnd(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	guest := n.start(t, "run", "sleep", "100")
	n.awaitGuests(t, 1)
	watch := n.start(t, "flows", "--watch", "0.1")
	eventually(t, deadline, func() error {
		if strings.Count(watch.Stdout.String(), "PROTO") < 2 {
			return fmt.Errorf("watched: %q", watch.Stdout)
		}
		return nil
	})
	guest.Signal(syscall.SIGTERM)
	code, _, err := watch.Exit(timeout(t, deadline))
	if err != nil || code != 0 || watch.Stderr.String() != "epiphyte flows: the program that was asked has ended\n" {
		t.Errorf("status %d, %v, %q", code, err, watch.Stderr)
	}
}

// Each line that the program writes where its command does says so; --quiet has none.
func TestFind_WhoSpeaks(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	args := []string{"run", "--mtu=1000", "--outbound-addr=192.0.2.99", "--sandbox=off", "true"}
	_, stderr, code := n.try(t, args...)
	if code != 0 || strings.Count(stderr, "\n") < 3 {
		t.Errorf("status %d, %q", code, stderr)
	}
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "epiphyte run: ") {
			t.Errorf("who says %q?", line)
		}
	}
	if _, stderr, code := n.try(t, append([]string{"run", "--quiet"}, args[1:]...)...); code != 0 || stderr != "" {
		t.Errorf("quiet: status %d, %q", code, stderr)
	}
}
