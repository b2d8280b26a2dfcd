package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// MaxPath is the longest path of a socket in bytes (unix(7): 108 with the
// terminating zero).
const MaxPath = 107

// ErrPathTooLong is the refusal of a longer path, in the contract's words.
var ErrPathTooLong = errors.New("the specified API socket path is too long (>= 108)")

// backlog is the number of clients that may wait to be accepted. The contract's
// callers connect one after the other, and some give up when they are refused.
const backlog = 1024

// socketFile is a listening socket and the file that leads to it.
type socketFile struct {
	*net.UnixListener
	path     string
	dev, ino uint64
	netns    uint64 // cookie of the network namespace, 0 if unknown
}

// bind listens on path, in place of a socket that is already there.
func bind(path string) (*socketFile, error) {
	if len(path) > MaxPath {
		return nil, ErrPathTooLong
	}
	if path == "" || path[0] == 0 || path[0] == '@' {
		// An empty or abstract name has no mode to protect it.
		return nil, fmt.Errorf("listen on socket %q: not a path", path)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	f, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	return f, nil
}

// removeStale removes a socket that a predecessor left behind, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on socket %s: there is a file that is not a socket; it is left alone", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	return nil
}

func listen(path string) (_ *socketFile, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close() // net.FileListener works on a copy

	// The file gets its mode from the socket, so it is never open to others;
	// the umask, which is the whole process's, is left alone.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, fmt.Errorf("set mode: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	cookie, _ := netnsCookie(fd)
	return &socketFile{UnixListener: l.(*net.UnixListener), path: path, dev: st.Dev, ino: st.Ino, netns: cookie}, nil
}

// Close removes the file, unless a successor has put its own there, and stops
// listening. Where the path leads elsewhere by now (a sandbox) nothing is removed.
func (f *socketFile) Close() error {
	var st unix.Stat_t
	if unix.Lstat(f.path, &st) == nil && st.Dev == f.dev && st.Ino == f.ino {
		os.Remove(f.path)
	}
	return f.UnixListener.Close()
}
