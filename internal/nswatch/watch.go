package nswatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/internal/fdwait"
)

// Watch of one namespace.
type Watch struct {
	fd     int
	events int16
	gone   func() bool // looks whether the namespace is gone
}

// Never is a watch that never ends, for a program that outlives the namespace.
func Never() *Watch { return &Watch{fd: -1, gone: func() bool { return false }} }

// Process watches the namespace of a process, which ends with it. The error wraps ESRCH if
// there is no such process.
func Process(pid int) (*Watch, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	return &Watch{fd: fd, events: unix.POLLIN, gone: func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 && err == nil
	}}, nil
}

// Path watches the namespace at a path, /proc/PID/ns/net included. It must exist.
func Path(path string) (*Watch, error) {
	was, err := identify(path)
	if err != nil {
		return nil, fmt.Errorf("find network namespace %s: %w", path, err)
	}
	if pid, ok := processOf(path); ok {
		return Process(pid)
	}
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("watch mounts: %w", err)
	}
	return &Watch{fd: fd, events: unix.POLLPRI, gone: func() bool {
		is, err := identify(path)
		if err != nil {
			// A directory that we may no longer enter says nothing about what is in it.
			return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
		}
		return is != was
	}}, nil
}

// file is what tells one namespace from another.
type file struct{ dev, inode uint64 }

func identify(path string) (file, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return file{}, err
	}
	return file{st.Dev, st.Ino}, nil
}

// processOf returns the process in whose /proc directory a path is, or through whose root
// directory it leads: that ends with the process, too, and its mounts do not show in our
// table.
func processOf(path string) (pid int, ok bool) {
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return 0, false // no /proc, or one of another PID namespace
	}
	if pid, ok := below(path); ok {
		return pid, true
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return 0, false
	}
	return below(dir)
}

// below returns the process with whose /proc directory a path begins.
func below(path string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(filepath.Clean(path), "/proc/")
	if !ok {
		return 0, false
	}
	number, _, _ := strings.Cut(rest, "/")
	pid, err := strconv.Atoi(number)
	return pid, err == nil
}

// Wait returns when the namespace is gone, or with the context's error when that ends
// first.
func (w *Watch) Wait(ctx context.Context) error {
	for !w.gone() {
		if err := fdwait.Poll(ctx, w.fd, w.events); err != nil {
			return fmt.Errorf("watch namespace: %w", err)
		}
	}
	return nil
}

// Close frees the descriptor. Wait must have returned.
func (w *Watch) Close() {
	if w.fd >= 0 {
		os.NewFile(uintptr(w.fd), "watch").Close()
		w.fd = -1
	}
}
