package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Environment variables read by the harness.
const (
	// EnvBinary names a built helper of ours; without it one is built.
	EnvBinary = "EPIPHYTE"
	// EnvHelper names another program with the same command line, which is
	// then driven instead (for example /usr/bin/slirp4netns).
	EnvHelper = "HELPER"

	// EnvFlags are more options, separated by spaces, for every helper of ours:
	// the whole suite by another way, as in --queues=2.
	EnvFlags = "EPIPHYTE_FLAGS"

	envStage   = "EPIPHYTE_HARNESS_STAGE"
	envScratch = "EPIPHYTE_HARNESS_SCRATCH"
)

const (
	unprivileged = 65534 // the uid and gid that root drops to: nobody
	runnerID     = 1000  // the same uid and gid seen from inside
)

// runnerCaps are held by the runner in its own user namespace. CAP_SYS_ADMIN
// makes and joins namespaces, CAP_NET_ADMIN configures them, CAP_SYS_PTRACE
// reads /proc of what it started.
var runnerCaps = [...]uintptr{
	unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE,
	unix.CAP_SYS_PTRACE, unix.CAP_KILL, unix.CAP_DAC_OVERRIDE,
}

// Env is what a runner has at hand.
type Env struct {
	Binary  string // the helper under test
	Product bool   // Binary is ours; false: another helper with the same command line
	Host    *NetNS // where helpers run
	Net     *Internet

	spawn   *spawner
	fdsBase int

	mu    sync.Mutex
	races []error // guarded by mu
}

// Run calls f in a runner stage and returns the exit status of the program.
// The caller must do nothing before it and exit with its result after it.
func Run(f func(*Env) int) int {
	var err error
	code := 1
	switch os.Getenv(envStage) {
	case "":
		code, err = setUp()
	case "user":
		code, err = reexec("runner", &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: runnerID, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: runnerID, HostID: os.Getgid(), Size: 1}},
			AmbientCaps: runnerCaps[:],
		})
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w (unprivileged user namespaces must be allowed: "+
				"sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "+
				"kernel.apparmor_restrict_unprivileged_userns)", err)
		}
	case "runner":
		code, err = runner(f)
	case "pause":
		code, err = pause()
	case "mounts":
		err = execWithMounts()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "harness: %v\n", err)
		return 1
	}
	return code
}

// setUp is the stage that the user started: build, make a scratch directory,
// drop root.
func setUp() (int, error) {
	// The name must be readable by the uid dropped to, and go test's own
	// directories are not.
	scratch, err := os.MkdirTemp("", "epiphyte-test-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(scratch)
	if err := os.Chmod(scratch, 0o755); err != nil {
		return 1, err
	}
	tmp := filepath.Join(scratch, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return 1, err
	}
	env := map[string]string{envScratch: scratch, "TMPDIR": tmp, "HOME": tmp}
	if os.Getenv(EnvHelper) == "" {
		bin, err := binary(scratch)
		if err != nil {
			return 1, err
		}
		env[EnvBinary] = bin
	}
	for k, v := range env {
		if err := os.Setenv(k, v); err != nil {
			return 1, err
		}
	}
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: unprivileged, Gid: unprivileged}
		if err := os.Chown(tmp, unprivileged, unprivileged); err != nil {
			return 1, err
		}
		// 0666 is what udev gives the node; minimal containers and virtual
		// machines leave it to root.
		if err := os.Chmod(tunNode, 0o666); err != nil {
			return 1, fmt.Errorf("open the TAP device to plain users: %w", err)
		}
	}
	if err := unix.Access(tunNode, unix.R_OK|unix.W_OK); err != nil {
		return 1, fmt.Errorf("%s: %w (a TAP needs it: chmod 0666 %s as root)", tunNode, err, tunNode)
	}
	return reexec("user", attr)
}

const tunNode = "/dev/net/tun"

// binary gives the path of the helper of ours to test, built unless named.
func binary(dir string) (string, error) {
	out := filepath.Join(dir, "epiphyte")
	if named := os.Getenv(EnvBinary); named != "" {
		// A copy, because the uid dropped to may not reach the original.
		return out, install(named, out)
	}
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	build := exec.Command("go", "build", "-o", out, "./cmd/epiphyte")
	build.Dir = filepath.Dir(strings.TrimSpace(string(mod)))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build helper: %w\n%s", err, msg)
	}
	return out, nil
}

// install copies a program, and has the kernel read it from the disk when it is executed, as
// one that was installed some time ago: what was just written in one go is in its memory as
// pages of 2 MB, which count in full as resident when a byte of them is used.
func install(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// reexec runs this program again in the given stage and waits for it.
func reexec(stage string, attr *syscall.SysProcAttr) (int, error) {
	// Pdeathsig is sent when the forking thread dies, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr.Pdeathsig = unix.SIGKILL
	cmd := exec.Command("/proc/self/exe", stageArgs()...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), envStage+"="+stage)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	// Whoever interrupts us means the last stage; we stay to clear up after it.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start stage %s: %w", stage, err)
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s) // it may have ended already
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if exit.Exited() {
			return exit.ExitCode(), nil
		}
		return 1, fmt.Errorf("stage %s: %v", stage, exit)
	}
	return 0, err
}

// stageArgs are our arguments without the log that go test keeps to decide
// about caching: its directory is not ours any more.
func stageArgs() []string {
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile=") {
			args = append(args, a)
		}
	}
	return args
}

// runner makes the network, calls f and looks for what f left behind.
func runner(f func(*Env) int) (int, error) {
	// Orphans come to us instead of to init, where they would be lost.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("become subreaper: %w", err)
	}
	if err := os.Unsetenv(envStage); err != nil {
		return 1, err
	}
	e := &Env{Binary: os.Getenv(EnvHelper)}
	if e.Binary == "" {
		e.Binary, e.Product = os.Getenv(EnvBinary), true
	}
	var err error
	if e.Host, err = currentNS(); err != nil {
		return 1, err
	}
	defer e.Host.Close()
	e.spawn = newSpawner(nil)
	defer e.spawn.close()
	if e.Net, err = newInternet(e.Host); err != nil {
		return 1, fmt.Errorf("make internet: %w", err)
	}
	defer e.Net.Close()
	if err := e.useResolver(); err != nil {
		return 1, err
	}
	e.fdsBase = countFDs(os.Getpid())
	return f(e), nil
}
