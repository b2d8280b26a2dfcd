package namespace

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
	"epiphyte/tap"
)

// roleTest makes the test binary a program that runs the command in its
// arguments as cmd/epiphyte would, for tests of what reaches it from outside.
const roleTest = "EPIPHYTE_NAMESPACE_TEST_PARENT"

// statusNoNamespaces is that program's answer where none may be made.
const statusNoNamespaces = 99

func TestMain(m *testing.M) {
	switch {
	case IsChild():
		os.Exit(ChildMain())
	case os.Getenv(roleTest) != "":
		os.Exit(serveCommand(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func serveCommand(argv []string) int {
	signals := CatchSignals()
	p, err := Start(Config{Command: argv})
	if err != nil || p.Release() != nil {
		return statusNoNamespaces
	}
	for {
		select {
		case sig := <-signals.C():
			p.Forward(sig)
		case <-p.Done():
			code, _ := p.Status()
			return code
		}
	}
}

const patience = 10 * time.Second

// start makes a held-back command, or skips where namespaces may not be made.
func start(t *testing.T, cfg Config) *Process {
	t.Helper()
	p, err := Start(cfg)
	testnet.NeedNamespaces(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// status releases the command and waits for its exit status.
func status(t *testing.T, p *Process) int {
	t.Helper()
	if err := p.Release(); err != nil {
		t.Fatal(err)
	}
	return result(t, p)
}

func result(t *testing.T, p *Process) int {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("the command does not end")
	}
	code, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// script is a shell command whose output, of both streams, goes to a file.
type script struct {
	t    *testing.T
	file string
	argv []string
}

func sh(t *testing.T, text string) script {
	file := filepath.Join(t.TempDir(), "output")
	return script{t, file, []string{"/bin/sh", "-c", "exec >" + file + " 2>&1; " + text}}
}

// output is what the command has written so far; began is false before the
// first byte.
func (s script) output() (text string, began bool) {
	s.t.Helper()
	b, err := os.ReadFile(s.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return string(b), len(b) > 0
}

func TestCommandIsRootWithItsOwnNamespaces(t *testing.T) {
	cmd := sh(t, "id -u; id -g; for n in user net mnt pid; do readlink /proc/self/ns/$n; done; cat /proc/sys/net/ipv4/ping_group_range; grep -E '^(SigBlk|CapAmb)' /proc/self/status")
	p := start(t, Config{Command: cmd.argv})
	code := status(t, p)
	output, _ := cmd.output()
	if code != 0 {
		t.Fatalf("status %d: %s", code, output)
	}
	lines := strings.Split(output, "\n")
	if lines[0] != "0" || lines[1] != "0" {
		t.Errorf("uid %s, gid %s", lines[0], lines[1])
	}
	for i, ns := range []string{"user", "net", "mnt", "pid"} {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if own := lines[2+i] != host; own != (ns != "pid") {
			t.Errorf("%s namespace is its own: %v", ns, own)
		}
	}
	if len(p.Warnings) == 0 && strings.Join(strings.Fields(lines[6]), " ") != "0 0" {
		t.Errorf("ping_group_range %q", lines[6])
	}
	for _, line := range lines[7:9] {
		if strings.Trim(strings.Fields(line)[1], "0") != "" {
			t.Errorf("%s", line)
		}
	}
}

func TestCommandWaitsForRelease(t *testing.T) {
	cmd := sh(t, "echo ran")
	p := start(t, Config{Command: cmd.argv})
	args, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/cmdline")
	if err != nil || !strings.HasPrefix(string(args), childName+"\x00") {
		t.Errorf("cmdline %q, %v", args, err)
	}
	if _, began := cmd.output(); began {
		t.Error("the command ran before its release")
	}
	code := status(t, p)
	if output, _ := cmd.output(); code != 0 || output != "ran\n" {
		t.Errorf("status %d, output %q", code, output)
	}
}

func TestResolvConfInsideOnly(t *testing.T) {
	before, err := os.ReadFile("/etc/resolv.conf")
	testnet.Need(t, "a resolv.conf to compare with", err, unix.ENOENT)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	cmd := sh(t, "cat /etc/resolv.conf")
	p := start(t, Config{Command: cmd.argv, Nameservers: []netip.Addr{netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("fd00::3")}})
	if got, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(got) != string(before) {
		t.Errorf("outside: %q, %v; was %q", got, err, before)
	}
	if got, err := os.ReadFile("/proc/self/mountinfo"); err != nil || string(got) != string(mounts) {
		t.Errorf("mounts outside: %s, %v; were %s", got, err, mounts)
	}
	status(t, p)
	if got, _ := cmd.output(); !strings.HasPrefix(got, "nameserver 10.0.2.3\nnameserver fd00::3\n") {
		t.Errorf("inside: %q", got)
	}
}

func TestResolvConfOfANetwork(t *testing.T) {
	_, err := os.Stat("/etc/resolv.conf")
	testnet.Need(t, "a resolv.conf to mount over", err, unix.ENOENT)
	cmd := sh(t, "cat /etc/resolv.conf")
	status(t, start(t, Config{Command: cmd.argv, Nameservers: []netip.Addr{netip.MustParseAddr("10.90.0.1")},
		Search: []string{"web"}, Options: []string{"ndots:0"}}))
	got, _ := cmd.output()
	if !strings.HasPrefix(got, "nameserver 10.90.0.1\nsearch web") || !strings.HasSuffix(got, " ndots:0\n") {
		t.Errorf("inside: %q", got)
	}
}

// Each network has its device, which waits for whoever attaches to it.
func TestInterfaces(t *testing.T) {
	testnet.NeedTUN(t)
	cmd := sh(t, "cat /proc/net/dev")
	p := start(t, Config{Command: cmd.argv, Interfaces: []string{"eth0", "eth1"}})
	for _, name := range []string{"eth0", "eth1"} {
		d, err := tap.Open(t.Context(), tap.Config{Target: tap.Target{PID: p.PID()}, Name: name, Transient: true})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
	}
	status(t, p)
	output, _ := cmd.output()
	for _, name := range []string{"eth0:", "eth1:"} {
		if !strings.Contains(output, name) {
			t.Errorf("no %s in %s", name, output)
		}
	}
	if _, err := Start(Config{Command: []string{"true"}, Interfaces: []string{"eth0", "eth0/"}}); err == nil || !strings.Contains(err.Error(), "eth0/") {
		t.Errorf("a name that is none: %v", err)
	}
}

func TestHostname(t *testing.T) {
	before, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	uts, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		set, want string
		own       bool
	}{{"db", "db", true}, {"", before, false}} {
		cmd := sh(t, "cat /proc/sys/kernel/hostname; readlink /proc/self/ns/uts")
		p := start(t, Config{Command: cmd.argv, Hostname: tt.set})
		if now, err := os.Hostname(); err != nil || now != before {
			t.Errorf("outside: %q, %v; was %q", now, err, before)
		}
		status(t, p)
		output, _ := cmd.output()
		lines := strings.Split(output, "\n")
		if lines[0] != tt.want || (lines[1] != uts) != tt.own {
			t.Errorf("%q: inside %q; outside %s", tt.set, output, uts)
		}
	}
	_, err = Start(Config{Command: []string{"true"}, Hostname: strings.Repeat("x", 65)})
	if err == nil || !strings.Contains(err.Error(), "host name") {
		t.Errorf("a name of 65 bytes: %v", err)
	}
}

// What does not fit into a message is refused, not cut.
func TestTooMuchToPrepare(t *testing.T) {
	_, err := Start(Config{Command: []string{"true"}, Search: slices.Repeat([]string{strings.Repeat("x", 60)}, 100)})
	if err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("%v", err)
	}
}

func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, []byte("exit 42\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		command []string
		want    int
	}{
		{[]string{"true"}, 0},
		{[]string{"/bin/sh", "-c", "exit 7"}, 7},
		{[]string{"/bin/sh", "-c", "kill -9 $$"}, 128 + 9},
		{[]string{"/bin/sh", "-c", "kill -TERM $$"}, 128 + 15},
		{[]string{"no-such-command"}, 127},
		{[]string{filepath.Join(dir, "missing")}, 127},
		{[]string{plain}, 126},
		{[]string{dir}, 126},
		{[]string{script}, 42}, // no first line: the shell's
	} {
		if got := status(t, start(t, Config{Command: tc.command})); got != tc.want {
			t.Errorf("%q: status %d, want %d", tc.command, got, tc.want)
		}
	}
}

func TestForward(t *testing.T) {
	cmd := sh(t, "trap 'echo term; exit 3' TERM; echo up; while :; do sleep 0.01; done")
	p := start(t, Config{Command: cmd.argv})
	if err := p.Release(); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { _, began := cmd.output(); return began })
	p.Forward(syscall.SIGTERM)
	code := result(t, p)
	if output, _ := cmd.output(); code != 3 || output != "up\nterm\n" {
		t.Errorf("status %d, output %q", code, output)
	}
	p.Forward(syscall.SIGTERM) // nobody there: nothing happens
}

func TestCloseEndsACommandThatWasNeverReleased(t *testing.T) {
	p := start(t, Config{Command: []string{"true"}})
	pid := p.PID()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("process %d is there: %v", pid, err)
	}
}

// helper is this binary running a command, in a process of its own.
type helper struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func startHelper(t *testing.T, cmd *exec.Cmd) *helper {
	t.Helper()
	cmd.Env = append(os.Environ(), roleTest+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := &helper{cmd, make(chan struct{})}
	go func() { cmd.Wait(); close(h.ended) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-h.ended })
	return h
}

// skipUnable skips the test where no namespaces may be made.
func (h *helper) skipUnable(t *testing.T) {
	select {
	case <-h.ended:
		if h.cmd.ProcessState.ExitCode() == statusNoNamespaces {
			t.Skip("namespaces may not be made here")
		}
	default:
	}
}

// The kernel ends the command when its helper is killed.
func TestCommandDiesWithItsHelper(t *testing.T) {
	command := sh(t, "echo $$; exec sleep 1000")
	h := startHelper(t, exec.Command("/proc/self/exe", command.argv...))
	var pid int
	until(t, func() bool {
		h.skipUnable(t)
		output, _ := command.output()
		var err error
		pid, err = strconv.Atoi(strings.TrimSpace(output))
		return err == nil
	})
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	h.cmd.Process.Kill()
	until(t, func() bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		return n == 1
	})
}

// A key that makes a signal reaches the command from the terminal, and must not
// come a second time from the helper; what is sent to the helper alone must.
func TestTerminalSignalsComeOnce(t *testing.T) {
	ptmx, tty := terminal(t)
	command := sh(t, "trap 'echo INT' INT; trap 'echo TERM; exit 5' TERM; echo up; while :; do sleep 0.01; done")
	cmd := exec.Command("/proc/self/exe", command.argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	h := startHelper(t, cmd)
	is := func(want string) func() bool {
		return func() bool {
			h.skipUnable(t)
			output, _ := command.output()
			return output == want
		}
	}
	until(t, is("up\n"))
	if _, err := ptmx.Write([]byte{'C' & 0x1f}); err != nil {
		t.Fatal(err)
	}
	until(t, is("up\nINT\n"))
	h.cmd.Process.Signal(syscall.SIGTERM)
	<-h.ended
	if output, _ := command.output(); output != "up\nINT\nTERM\n" || h.cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("output %q, %v", output, h.cmd.ProcessState)
	}
}

// terminal makes a pseudo terminal, pty(7).
func terminal(t *testing.T) (ptmx, tty *os.File) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	testnet.Need(t, "a pseudo terminal", err, unix.ENOENT)
	t.Cleanup(func() { ptmx.Close() })
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, ptmx.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatalf("open the other end: %v", errno)
	}
	tty = os.NewFile(fd, "tty")
	t.Cleanup(func() { tty.Close() })
	return ptmx, tty
}

// until polls for a condition that another process brings about.
func until(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
}

// TestHandles: signals that process 1 does not handle would not reach it.
func TestHandles(t *testing.T) {
	const status = "Name:\tsh\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000004\nSigCgt:\t0000000000014002\n"
	for sig, want := range map[syscall.Signal]bool{
		syscall.SIGINT: true, syscall.SIGQUIT: true, syscall.SIGTERM: true, syscall.SIGHUP: false, syscall.SIGUSR1: false,
	} {
		if got := handles(status, sig); got != want {
			t.Errorf("%v: %v", sig, got)
		}
	}
}
