package cli

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// unhindered wraps standard error so that a write never blocks: lines are lost if the pipe is
// full or the terminal stopped. The writer may be the thread that serves the guest, which
// must not wait.
func unhindered(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok {
		return unhinderedFile{f}
	}
	return w
}

type unhinderedFile struct{ f *os.File }

// Write implements io.Writer. A pipe that poll(2) calls writable has room for a line
// (PIPE_BUF), so that this one does not wait, unless another process fills it meanwhile.
func (u unhinderedFile) Write(line []byte) (int, error) {
	full := false
	conn, err := u.f.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
			full = n == 0 && err == nil
		})
	}
	if err != nil {
		return 0, err
	}
	if full {
		return len(line), nil
	}
	return u.f.Write(line)
}
