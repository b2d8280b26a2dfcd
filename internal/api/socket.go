package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/retry"
)

// MaxPath is the longest path of a socket in bytes (unix(7): 108 with the
// terminating zero).
const MaxPath = 107

// ErrPathTooLong rejects a longer path, in the contract's words.
var ErrPathTooLong = errors.New("the specified API socket path is too long (>= 108)")

// Socket is a listening socket and its file. Clients wait in the kernel's queue until a
// [Server] serves it.
type Socket struct {
	*net.UnixListener
	path     string
	dev, ino uint64
	netns    uint64 // cookie of the network namespace, 0 if unknown
}

// Listen makes the socket at path, replacing one that nobody listens on any more. A path of
// 108 bytes or more is ErrPathTooLong. It waits for a predecessor that is ending, until ctx
// ends. A server of the socket closes it; without one, Close does.
func Listen(ctx context.Context, path string) (*Socket, error) {
	if len(path) > MaxPath {
		return nil, ErrPathTooLong
	}
	if path == "" || path[0] == 0 || path[0] == '@' {
		// An empty or abstract name has no file mode to protect it.
		return nil, fmt.Errorf("listen on socket %q: not a path", path)
	}
	if free, err := awaitFree(ctx, path); err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	} else if !free {
		return nil, fmt.Errorf("listen on socket %s: another process listens there: end that one, or choose another path", path)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	f := &Socket{path: path}
	config := net.ListenConfig{Control: f.prepare}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, cause(err))
	}
	f.UnixListener = l.(*net.UnixListener)
	f.SetUnlinkOnClose(false) // a successor may have replaced the file
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		f.UnixListener.Close()
		return nil, fmt.Errorf("stat socket %s: %w", path, err)
	}
	f.dev, f.ino = st.Dev, st.Ino
	return f, nil
}

// cause is the errno that err wraps: its text names the path once more.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// prepare is called before the socket is bound. The file takes its mode from the socket, and
// so is never open to others. A umask would apply to the whole process.
func (f *Socket) prepare(_, _ string, raw syscall.RawConn) error {
	var err error
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.Fchmod(int(fd), 0o600)
		f.netns, _ = netnsCookie(fd)
	})
	return errors.Join(controlErr, err)
}

// A predecessor that was told to end may still listen; see bindPatience of portfwd.
const (
	takeOverPatience = time.Second
	takeOverPause    = 10 * time.Millisecond
)

// awaitFree waits for a listener on path to end, and reports whether there is none.
func awaitFree(ctx context.Context, path string) (free bool, err error) {
	err = retry.While(ctx, takeOverPatience, takeOverPause, func() bool {
		free = !answered(path)
		return !free
	})
	return free, err
}

func answered(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return true
	}
	// The listener's queue is full, or it is a socket of another type.
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EPROTOTYPE)
}

// removeStale removes a socket that a predecessor left behind, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on socket %s: %w", path, cause(err))
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on socket %s: a file that is not a socket exists", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	return nil
}

// Close stops listening and removes the file, unless path leads to another file
// by now: a successor's, or one in a sandbox.
func (f *Socket) Close() error {
	var st unix.Stat_t
	if unix.Lstat(f.path, &st) == nil && st.Dev == f.dev && st.Ino == f.ino {
		os.Remove(f.path)
	}
	return f.UnixListener.Close()
}
