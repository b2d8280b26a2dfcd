//go:build !amd64 && !arm64

package tap

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// cloneHere is a plain fork on other architectures. It does not wait for the child, which
// the receiver of its message does.
//
//go:nosplit
func cloneHere(uintptr) (pid, errno uintptr) {
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	return pid, uintptr(e)
}
