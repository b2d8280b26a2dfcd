package fdwait

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Ended returns nil when the process of a non-blocking pidfd, an os.File, has ended, and an error
// when that is closed before. It takes no thread.
func Ended(pidfd syscall.Conn) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		// Read calls it once before anything has happened.
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
}
