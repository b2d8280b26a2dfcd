package sandbox

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// built is the path of the probe and the error of its making.
var built struct {
	path string
	err  error
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		panic(err)
	}
	built.path = filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-o", built.path, "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as the program is
	if out, err := build.CombinedOutput(); err != nil {
		built.err = fmt.Errorf("%w: %s", err, out)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// program is the probe, where the kernel can confine it.
func program(t *testing.T) string {
	t.Helper()
	if built.err != nil {
		t.Fatal(built.err)
	}
	// Landlock is of Linux 5.13, and may be switched off; seccomp is older.
	_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		t.Skipf("this kernel has no Landlock: %v", errno)
	}
	if errno != 0 {
		t.Fatalf("ask for Landlock: %v", errno)
	}
	return built.path
}

// attempt says what became of it: "done", an errno, or the signal that ended it.
func attempt(t *testing.T, probe string, args ...string) string {
	t.Helper()
	out, err := exec.Command(probe, args...).Output()
	first, rest, _ := strings.Cut(string(out), "\n")
	if first != "confined" {
		t.Fatalf("%v: %s (%v)", args, out, err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.Sys().(syscall.WaitStatus).Signal().String()
	}
	return strings.TrimSpace(rest)
}

// killed is the end by a call that no honest program makes.
var killed = unix.SIGSYS.String()

// TestB44_NothingElse: what a subverted program tries is refused. Each attempt that
// is harmless is first made without a sandbox, so that the refusal is the sandbox's.
func TestB44_NothingElse(t *testing.T) {
	probe := program(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", "@epiphyte-probe")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tc := range []struct {
		attempt  string
		want     string
		harmless bool // succeeds without a sandbox, and may
	}{
		{"read /etc/passwd", "EACCES", true},
		{"read /proc/self/maps", "EACCES", true},
		{"list /", "EACCES", true},
		{"write " + file, "EPERM", true},
		{"append " + file, "EPERM", true},
		{"create " + file + ".other", "EPERM", true},
		{"open-write-null", "EPERM", true},
		{"chmod " + file, "EPERM", true},
		{"rename " + dir, "EPERM", false},
		{"link " + file, "EPERM", false},
		{"mkdir " + dir + "/new", "EPERM", false},
		{"remove " + file, "EACCES", false},

		{"exec", killed, false},
		{"executable", "EPERM", true},
		{"fork", "EPERM", false},
		{"fork-userns", "EPERM", false},
		{"clone3", "EPERM", false},
		{"ptrace", killed, true},
		{"vm-readv", killed, false},
		{"pidfd-getfd", killed, false},
		{"memfd", "EPERM", false},

		{"kill", "EPERM", true},
		{"kill-all", "EPERM", true},
		{"tgkill", "EPERM", true},
		{"tkill", "EPERM", false},
		{"sigqueue", "EPERM", false},
		{"pidfd", "EPERM", true},
		{"owner", "EPERM", false},
		{"-child signal-child", "done", true}, // the one that was named
		{"-child kill", "EPERM", true},        // and no other
		{"inject-input", "EPERM", false},

		{"mount", killed, false},
		{"umount", killed, false},
		{"move-mount", killed, false},
		{"fsopen", killed, false},
		{"chroot", killed, false},
		{"pivot-root", killed, false},
		{"setns", killed, false},
		{"unshare", killed, false},
		{"handle", killed, false},

		{"socket-sctp", "EPERM", false},
		{"socket-raw-any", "EPERM", false},
		{"socket-unix", "EPERM", true},
		{"abstract", "EPERM", true},
		{"pair-datagram", "EPERM", true},
		{"socket-netlink", "EPERM", true},
		{"socket-netfilter", "EPERM", false},
		{"-interfaces socket-netfilter", "EPERM", false},
		{"socket-packet", "EPERM", false},
		{"socket-vsock", "EPERM", false},
		{"socket-alg", "EPERM", false},
		{"socket-bluetooth", "EPERM", false},

		{"bpf", killed, false},
		{"perf", killed, false},
		{"userfaultfd", killed, false},
		{"io-uring", killed, false},
		{"keyctl", killed, false},
		{"add-key", killed, false},
		{"module", killed, false},
		{"openat2", "EPERM", false},
		{"setuid", "EPERM", false},
		{"capset", "EPERM", false},
		{"dumpable", "EPERM", false},
	} {
		args := strings.Fields(tc.attempt)
		if tc.harmless {
			if got := attempt(t, probe, append([]string{"-off"}, args...)...); got != "done" {
				t.Errorf("%s, not confined: %s", tc.attempt, got)
			}
		}
		if got := attempt(t, probe, args...); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.attempt, got, tc.want)
		}
	}
}

// TestConfine_WhatIsNeeded still works.
func TestConfine_WhatIsNeeded(t *testing.T) {
	probe := program(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "socket")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"threads"}, {"tcp"}, {"udp6"}, {"pair-of-streams"},
		{"-child", "threads"}, {"-child", "signal-child"}, {"-child", "wait-child"},
		{"-interfaces", "interface"}, {"-remove", socket, "remove", socket},
	} {
		if got := attempt(t, probe, args...); got != "done" {
			t.Errorf("%v: %s", args, got)
		}
	}
}

// TestConfine_OwnDirectory: files in it are replaced, and nothing beside it is touched.
func TestConfine_OwnDirectory(t *testing.T) {
	probe := program(t)
	root := t.TempDir()
	own, file, other := filepath.Join(root, "own"), filepath.Join(root, "own/file"), filepath.Join(root, "other")
	if err := errors.Join(os.Mkdir(own, 0o700), os.WriteFile(other, nil, 0o600), os.Mkdir(filepath.Join(root, "full"), 0o700),
		os.WriteFile(filepath.Join(root, "full/file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ attempt, want string }{
		{"replace " + file, "done"},
		{"replace " + file, "done"}, // the one that is there
		{"read " + file, "done"},
		{"write " + file, "EPERM"}, // in place
		{"make " + root + "/new", "EACCES"},
		{"replace " + other, "EACCES"},
		{"rename " + other, "EACCES"},
		{"read " + other, "EACCES"},
		{"remove " + other, "EACCES"},
		{"rmdir " + root + "/full", "ENOTEMPTY"},
		{"rmdir " + own, "ENOTEMPTY"},
		{"remove " + file, "done"},
		{"rmdir " + own, "done"},
	} {
		if got := attempt(t, probe, append([]string{"-own", own}, strings.Fields(tc.attempt)...)...); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.attempt, got, tc.want)
		}
		if b, err := os.ReadFile(file); tc.attempt == "replace "+file && string(b) != "new" {
			t.Errorf("%s: %q, %v", tc.attempt, b, err)
		}
	}
}

// TestConfine_FollowsReplacedFiles: by rename, and by another target of each of the
// links on the way.
func TestConfine_FollowsReplacedFiles(t *testing.T) {
	probe := program(t)
	root := t.TempDir()
	write := func(path string) string {
		t.Helper()
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(target, path string) {
		t.Helper()
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	secret := write("secret/file")
	first, second := write("run/one/resolv.conf"), write("run/one/other.conf")
	write("etc/beside")
	conf := filepath.Join(root, "etc/resolv.conf")
	link("../run/link", conf)
	link("one/resolv.conf", filepath.Join(root, "run/link"))
	for path, want := range map[string]string{
		conf: "done", first: "done", second: "done", filepath.Join(root, "etc/beside"): "done",
		secret: "EACCES", "/etc/passwd": "EACCES",
	} {
		if got := attempt(t, probe, "-read", conf, "read", path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	// A target that a service makes later.
	later := filepath.Join(root, "etc/later")
	link(filepath.Join(root, "run/service/file"), later)
	if got := attempt(t, probe, "-read", later, "read", first); got != "done" {
		t.Errorf("beneath the nearest directory: %s", got)
	}
	// What leads nowhere opens nothing.
	for _, path := range []string{"/nowhere/at/all", "/nowhere"} {
		if got := attempt(t, probe, "-read", path, "read", "/etc/passwd"); got != "EACCES" {
			t.Errorf("-read %s: %s", path, got)
		}
	}
}

// TestConfine_RawSocketsNeedTheCapability, which is kept where it is held.
func TestConfine_RawSocketsNeedTheCapability(t *testing.T) {
	probe := program(t)
	want := "EPERM"
	if _, data, err := capabilities(); err == nil && data[0].Permitted&(1<<unix.CAP_NET_RAW) != 0 {
		want = "done"
	}
	if got := attempt(t, probe, "socket-raw"); got != want {
		t.Errorf("raw socket: %s, want %s", got, want)
	}
}

// TestConfine_EveryThread is confined alike.
func TestConfine_EveryThread(t *testing.T) {
	probe := program(t)
	cmd := exec.Command(probe, "rest")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); cmd.Wait() }()
	if n, err := out.Read(make([]byte, len("confined\n"))); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
	if err != nil || len(threads) < 2 {
		t.Fatal(threads, err)
	}
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		status := string(b)
		for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n"} {
			if !strings.Contains(status, want) {
				t.Errorf("%s lacks %q", path, want)
			}
		}
		var permitted uint64
		_, rest, _ := strings.Cut(status, "CapPrm:\t")
		if _, err := fmt.Sscanf(rest, "%x", &permitted); err != nil || permitted&^kept != 0 {
			t.Errorf("%s: capabilities %#x, %v", path, permitted, err)
		}
	}
}

// TestSettle: a layer that is not to be had ends the start where it is demanded, and
// otherwise leaves a line in the log.
func TestSettle(t *testing.T) {
	missing := errors.New("no such thing")
	var log strings.Builder
	cfg := Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	if err := cfg.settle("files", true, missing); !errors.Is(err, missing) || strings.Contains(err.Error(), "\n") || log.Len() > 0 {
		t.Errorf("demanded: %v, log %q", err, log.String())
	}
	if err := cfg.settle("files", false, missing); err != nil || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("not demanded: %v, log %q", err, log.String())
	}
	if err := cfg.settle("files", true, nil); err != nil {
		t.Error(err)
	}
}
