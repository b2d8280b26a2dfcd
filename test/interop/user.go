package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

	"epiphyte/test/harness"
)

// searchPath is the PATH of the user, who needs to find iptables and ip too.
const searchPath = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

// pathWithHelper is an environment in which slirp4netns is the helper.
func (m *machine) pathWithHelper() ([]string, error) {
	if err := os.MkdirAll(pathDir, 0o755); err != nil {
		return nil, err
	}
	if err := os.Symlink(m.helper, pathDir+"/slirp4netns"); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return []string{"PATH=" + pathDir + ":" + searchPath}, nil
}

// find gives the path of a program as the user finds it, or as it is given.
func (m *machine) find(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, unix.Access(name, unix.X_OK)
	}
	// What came along with the tree's programs may need libraries that the machine lacks,
	// so the tree is no part of the PATH.
	dirs := filepath.SplitList(searchPath)
	if m.tree != "" {
		dirs = append([]string{m.tree + "/usr/bin"}, dirs...)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// command is a process of the plain user. Variables in env come last.
func (m *machine) command(ctx context.Context, env []string, argv ...string) *exec.Cmd {
	path := argv[0]
	if found, err := m.find(path); err == nil {
		path = found
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Dir = homeDir
	cmd.Env = append([]string{
		"PATH=" + searchPath,
		"HOME=" + homeDir,
		"USER=" + userName,
		"TMPDIR=" + homeDir + "/tmp",
		"XDG_RUNTIME_DIR=" + runtimeDir,
		"CONTAINERS_CONF=" + confDir + "/containers.conf",
		"CONTAINERS_STORAGE_CONF=" + confDir + "/storage.conf",
	}, append(slices.Clone(m.env), env...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: userID, Gid: userID},
		Setpgid:    true,
	}
	cmd.WaitDelay = 3 * time.Second
	return cmd
}

// do runs a command to its end and gives what it printed, trimmed. The error
// has its complaints.
func (m *machine) do(ctx context.Context, argv ...string) (string, error) {
	return output(m.command(ctx, nil, argv...))
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := strings.TrimSpace(stdout.String())
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", brief(cmd.Args), err, strings.TrimSpace(out+"\n"+stderr.String()))
	}
	return out, err
}

// brief is a command line short enough for an error.
func brief(argv []string) string {
	const limit = 160
	s := filepath.Base(argv[0]) + " " + strings.Join(argv[1:], " ")
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return s
}

// tail is the end of a log, where it says what went wrong.
func tail(log string) string {
	const limit = 1500
	return strings.TrimSpace(log[max(0, len(log)-limit):])
}

// session is a command that runs while a check does something with it.
type session struct {
	cmd  *exec.Cmd
	out  lockedBuffer // both streams
	done chan struct{}
}

// start starts a command of the user that runs until [session.end].
func (m *machine) start(env []string, argv ...string) (*session, error) {
	cmd := m.command(context.Background(), env, argv...)
	return startSession(cmd, (*exec.Cmd).Start)
}

func startSession(cmd *exec.Cmd, start func(*exec.Cmd) error) (*session, error) {
	s := &session{cmd: cmd, done: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", brief(cmd.Args), err)
	}
	go func() {
		_ = s.cmd.Wait() // how it ended is in ProcessState
		close(s.done)
	}()
	return s, nil
}

// alive gives an error with the output when the command has ended.
func (s *session) alive() error {
	select {
	case <-s.done:
		return fmt.Errorf("%s: %v\n%s", brief(s.cmd.Args), s.cmd.ProcessState, tail(s.out.String()))
	default:
		return nil
	}
}

// end sends a signal, waits until the command is gone, and kills it and its
// process group when ctx ends first.
func (s *session) end(ctx context.Context, sig syscall.Signal) error {
	_ = s.cmd.Process.Signal(sig) // it may have ended already
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		_ = unix.Kill(-s.cmd.Process.Pid, unix.SIGKILL) // as above
		<-s.done
		return fmt.Errorf("%s did not end by %v: %w\n%s", brief(s.cmd.Args), sig, ctx.Err(), tail(s.out.String()))
	}
}

// helpers gives the processes that execute the helper.
func (m *machine) helpers() ([]int, error) {
	program, err := os.Stat(m.helper)
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[1-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		// One that has died meanwhile has no file, and nor has a zombie.
		if fi, err := os.Stat(dir + "/exe"); err == nil && os.SameFile(fi, program) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// noHelpers waits until the last helper is gone. Those that stay are killed,
// so that they fail one check and not the next as well.
func (m *machine) noHelpers() error {
	err := harness.Eventually(5*time.Second, func() error {
		pids, err := m.helpers()
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("helpers still run: %v", pids)
		}
		return err
	})
	if err != nil {
		pids, _ := m.helpers() // the error at hand is the one to report
		for _, pid := range pids {
			err = errors.Join(err, unix.Kill(pid, unix.SIGKILL))
		}
	}
	return err
}

// helperCount waits until exactly n helpers run. A process that a helper has
// started for itself counts as part of it.
func (m *machine) helperCount(n int) error {
	return harness.Eventually(3*time.Second, func() error {
		all, err := m.helpers()
		pids := slices.DeleteFunc(slices.Clone(all), func(pid int) bool { return slices.Contains(all, parent(pid)) })
		if err == nil && len(pids) != n {
			err = fmt.Errorf("%d helpers run, want %d", len(pids), n)
		}
		return err
	})
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

// parent is the parent of a process, 0 if it has gone.
func parent(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(value)) // 0 like no parent
			return n
		}
	}
	return 0
}
