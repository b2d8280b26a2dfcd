package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// HelperConfig says how to start a helper. The zero value of every field works.
type HelperConfig struct {
	// Args follow the program name. ReadyFD and ExitFD stand for the numbers
	// of the descriptors given: "-r", ReadyFD.
	Args []string
	// Etc is a directory that the helper sees as /etc, for tests that change
	// resolv.conf; it must exist. Empty: the runner's /etc.
	Etc string
	// ReadOnly makes the helper's root file system read-only.
	ReadOnly bool
	Env      []string // added to the runner's
	// Host is the network namespace that the helper's sockets live in. Nil:
	// [Env.Host].
	Host *NetNS
	// Wrap is a command that executes the helper, whose path and arguments
	// follow: {"sh", "-c", `exec "$0" "$@" 0<&-`}.
	Wrap []string
	// NoWait returns before the helper is ready.
	NoWait bool
	// Caps are capabilities (unix.CAP_*) that the helper has in the runner's user
	// namespace. Without, it is a plain user's process.
	Caps []uintptr
	// Files are inherited as descriptors 5 and up.
	Files []*os.File
	// Plain leaves out what EnvFlags asks for: Args are of another command than
	// attaching a guest to a network of its own.
	Plain bool
}

// Numbers of the descriptors that every helper inherits.
const (
	ReadyFD = "3"
	ExitFD  = "4"
)

// Helper is a running helper.
type Helper struct {
	PID    int
	Ready  time.Duration // from before fork to the ready byte
	Stdout fmt.Stringer
	Stderr fmt.Stringer

	env   *Env
	cmd   *exec.Cmd
	ready *os.File
	exit  *os.File
	begin time.Time
	done  chan struct{}
	err   error // of Wait; read after done
}

// Start starts a helper as a plain user's process on the host and waits until
// it says that it is ready, or ctx ends.
func (e *Env) Start(ctx context.Context, cfg HelperConfig) (*Helper, error) {
	ready, readyW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer readyW.Close()
	exitR, exit, err := os.Pipe()
	if err != nil {
		ready.Close()
		return nil, err
	}
	defer exitR.Close()
	var stdout, stderr lockedBuffer
	args := cfg.Args
	if !cfg.Plain {
		args = e.flags(args)
	}
	argv := slices.Concat(cfg.Wrap, []string{e.Binary}, args)
	attr := &syscall.SysProcAttr{AmbientCaps: slices.Clone(cfg.Caps)}
	if cfg.Etc != "" || cfg.ReadOnly {
		argv = slices.Concat([]string{"/proc/self/exe", cfg.Etc, strconv.FormatBool(cfg.ReadOnly)}, argv)
		cfg.Env = append(cfg.Env, envStage+"=mounts")
		attr.Cloneflags = unix.CLONE_NEWNS
		attr.AmbientCaps = append(attr.AmbientCaps, unix.CAP_SYS_ADMIN)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = attr
	cmd.Env = append(os.Environ(), cfg.Env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.ExtraFiles = append([]*os.File{readyW, exitR}, cfg.Files...)
	cmd.WaitDelay = time.Second
	h := &Helper{
		Stdout: &stdout, Stderr: &stderr,
		env: e, cmd: cmd, ready: ready, exit: exit, begin: time.Now(), done: make(chan struct{}),
	}
	start := e.spawn.start
	if cfg.Host != nil {
		start = cfg.Host.Start
	}
	if err := start(cmd); err != nil {
		ready.Close()
		exit.Close()
		return nil, fmt.Errorf("start helper: %w", err)
	}
	h.PID = cmd.Process.Pid
	go h.wait()
	readyW.Close()
	if cfg.NoWait {
		return h, nil
	}
	if err := h.WaitReady(ctx); err != nil {
		h.Kill()
		return nil, err
	}
	return h, nil
}

// flags puts what EnvFlags asks for before other options.
func (e *Env) flags(args []string) []string {
	more := strings.Fields(os.Getenv(EnvFlags))
	if !e.Product || len(more) == 0 || len(args) == 0 {
		return args
	}
	at := 0
	if args[0] == "run" {
		at = 1
	}
	return slices.Insert(slices.Clone(args), at, more...)
}

func (h *Helper) wait() {
	h.err = h.cmd.Wait()
	h.env.lookForRace(h)
	close(h.done)
}

// WaitReady waits for the byte on the ready descriptor.
func (h *Helper) WaitReady(ctx context.Context) error {
	defer h.ready.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := h.ready.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	b := make([]byte, 16)
	n, err := h.ready.Read(b)
	h.Ready = time.Since(h.begin)
	switch {
	case err == nil && string(b[:n]) == "1":
		return nil
	case err == nil:
		return fmt.Errorf("helper wrote %q to its ready descriptor", b[:n])
	case errors.Is(err, io.EOF):
		<-h.done // it closes the descriptor by exiting
		return fmt.Errorf("helper is not ready: %v: %s", h.err, strings.TrimSpace(h.Stderr.String()))
	}
	return fmt.Errorf("wait for helper: %w: %s", err, strings.TrimSpace(h.Stderr.String()))
}

// Signal sends a signal to the helper.
func (h *Helper) Signal(s os.Signal) error { return h.cmd.Process.Signal(s) }

// CloseExitFD closes our end of the exit descriptor.
func (h *Helper) CloseExitFD() error { return h.exit.Close() }

// Done is closed when the helper has exited.
func (h *Helper) Done() <-chan struct{} { return h.done }

// Exit waits for the helper's end: its exit status, or -1 and the signal.
func (h *Helper) Exit(ctx context.Context) (code int, sig syscall.Signal, err error) {
	select {
	case <-h.done:
	case <-ctx.Done():
		return 0, 0, fmt.Errorf("helper still runs: %w", ctx.Err())
	}
	ws := h.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return -1, ws.Signal(), nil
	}
	return ws.ExitStatus(), 0, nil
}

// Kill ends the helper by SIGKILL and waits for it. It may be called after
// every other end.
func (h *Helper) Kill() {
	_ = h.cmd.Process.Kill() // it may have ended already
	<-h.done
	h.exit.Close()
	h.ready.Close()
}

// Usage is what a helper holds.
type Usage struct {
	RSS     int64 // bytes
	FDs     int
	Sockets int // of those descriptors
	Threads int
	CPU     time.Duration // user and system, of all its threads so far
}

// Usage reads the helper's figures from /proc.
func (h *Helper) Usage() (Usage, error) { return UsageOf(h.PID) }

// Agent gives the process that makes sockets in the guest's namespace for the helper;
// 0 when there is none.
func (h *Helper) Agent() (pid int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		status, err := os.ReadFile("/proc/" + e.Name() + "/status")
		if err == nil && strings.HasPrefix(string(status), "Name:\tepiphyte-agent\n") && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", h.PID)) {
			return strconv.Atoi(e.Name())
		}
	}
	return 0, nil
}

// useResolver makes the machine's resolv.conf, as helpers and commands see it,
// name the resolvers of the test network.
func (e *Env) useResolver() error {
	path, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return nil // none to hide; tests of names bring their own /etc
	}
	ours := filepath.Join(os.TempDir(), "resolv.conf")
	text := fmt.Sprintf("nameserver %s\nnameserver %s\n", ResolverIPv4, ResolverIPv6)
	if err := os.WriteFile(ours, []byte(text), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(ours, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	return nil
}

// execWithMounts is the stage of a helper with mounts of its own: it has a mount
// namespace and the one capability to mount, which it gives up by executing.
func execWithMounts() error {
	if os.Args[1] != "" {
		if err := unix.Mount(os.Args[1], "/etc", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount /etc: %w", err)
		}
	}
	if os.Args[2] == "true" {
		if err := makeRootReadOnly(); err != nil {
			return err
		}
	}
	if err := os.Unsetenv(envStage); err != nil {
		return err
	}
	var err error
	onThread(func() {
		// Both are a thread's own, and the thread that executes is the one that
		// stays.
		err = errors.Join(
			unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0),
			unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0))
		if err == nil {
			err = execute(os.Args[3:])
		}
	})
	return fmt.Errorf("execute %s: %w", os.Args[3], err)
}

// makeRootReadOnly keeps the flags that the root was mounted with: those of
// mounts that come from outside the user namespace are locked.
func makeRootReadOnly() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return fmt.Errorf("look at /: %w", err)
	}
	const kept = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_NODIRATIME | unix.ST_RELATIME
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|relatime(uintptr(st.Flags)&kept), ""); err != nil {
		return fmt.Errorf("make / read-only: %w", err)
	}
	return nil
}

// relatime turns a flag of statfs(2) into that of mount(2): the only one of
// those kept whose number differs.
func relatime(flags uintptr) uintptr {
	if flags&unix.ST_RELATIME != 0 {
		flags = flags&^unix.ST_RELATIME | unix.MS_RELATIME
	}
	return flags
}

func execute(argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return unix.Exec(path, argv, os.Environ())
}

// lockedBuffer collects output while others read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
