package test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// pastaLink is our program by pasta's name.
func pastaLink(t testing.TB) string {
	t.Helper()
	ours(t, "pasta's place")
	link := filepath.Join(t.TempDir(), "pasta")
	if err := os.Symlink(must(filepath.Abs(env.Binary))(t), link); err != nil {
		t.Fatal(err)
	}
	return link
}

// called is what the caller of a program sees that goes on in the background.
type called struct {
	code  int
	said  string
	after time.Duration // from the program's return to the end of its outputs
}

// call runs a command as podman runs pasta: as a plain user, with one pipe for both
// outputs, until the command has returned and the pipe has ended.
func call(t testing.TB, name string, args ...string) called {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.CommandContext(timeout(t, 2*deadline), name, args...)
	cmd.Stdout, cmd.Stderr = w, w
	err = env.Host.Start(cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	type end struct {
		text []byte
		at   time.Time
	}
	ended := make(chan end, 1)
	go func() {
		text, _ := io.ReadAll(r)
		ended <- end{text, time.Now()}
	}()
	err = cmd.Wait()
	returned := time.Now()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		t.Fatal(err)
	}
	select {
	case e := <-ended:
		return called{cmd.ProcessState.ExitCode(), string(e.text), e.at.Sub(returned)}
	case <-time.After(deadline):
		t.Fatalf("%s %q has returned, and its outputs are still open", name, args)
		return called{}
	}
}

// daemon is a process in the background.
type daemon struct {
	pid int
	fd  int // a pidfd
}

// background is the process whose number is in a file. It is gone when the test ends.
func background(t testing.TB, pidFile string) *daemon {
	t.Helper()
	text := must(os.ReadFile(pidFile))(t)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || string(text) != fmt.Sprintln(pid) {
		t.Fatalf("%q is in the file for the process's number", text)
	}
	d := &daemon{pid: pid, fd: must(unix.PidfdOpen(pid, 0))(t)}
	t.Cleanup(func() {
		unix.PidfdSendSignal(d.fd, unix.SIGKILL, nil, 0)
		if !d.ends(deadline) {
			t.Errorf("process %d does not die", d.pid)
		}
		unix.Wait4(d.pid, nil, 0, nil) // it is ours, since whoever started it has ended
		unix.Close(d.fd)
	})
	return d
}

// ends reports whether the process ends within d.
func (d *daemon) ends(within time.Duration) bool {
	for until := time.Now().Add(within); ; {
		left := max(0, time.Until(until))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if err != unix.EINTR {
			return n > 0
		}
	}
}

// endsSoon wants it to end as soon as its namespace is gone, which pasta looks for once a second.
func (d *daemon) endsSoon(t testing.TB) {
	t.Helper()
	begin := time.Now()
	if gone := d.ends(deadline); !gone || late(t, time.Since(begin), 1200*time.Millisecond) {
		t.Fatalf("it goes on without its namespace: after %v it has ended: %v", time.Since(begin), gone)
	}
}

// pastaDaemon has pasta serve a guest in the background.
func pastaDaemon(t testing.TB, g *harness.Guest, args ...string) *daemon {
	t.Helper()
	pid := filepath.Join(t.TempDir(), "pid")
	args = append([]string{"--config-net", "-I", tapName, "--pid", pid}, args...)
	if c := call(t, pastaLink(t), append(args, fmt.Sprint(g.PID))...); c.code != 0 {
		t.Fatalf("pasta %q: exit status %d: %s", args, c.code, c.said)
	}
	return background(t, pid)
}

// closedPorts are the options that forward nothing.
var closedPorts = []string{"-t", "none", "-u", "none", "-T", "none", "-U", "none"}
