package network

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

var errImpostor = errors.New("a guest listens at the network's socket: end the guest, and remove the socket")

// checkServer returns an error if a guest listens at the socket. A guest of run has the
// user's files, and may put a socket of its own in place of a network's: a member that joined
// there would hand it the TAP. Guests are in user and network namespaces beneath ours,
// which we may inspect. A process that we may not inspect or do not see is no guest: it is in
// an ancestor of our namespaces, as a network's is for podman's plugin.
//
// ErrNotRunning: the listening process is gone but its socket is not yet, as when a network
// is ending.
func checkServer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = checkListener(int(fd)) })
	return errors.Join(controlErr, err)
}

func checkListener(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	switch {
	case err != nil:
		return fmt.Errorf("find out who listens: %w", err)
	case cred.Pid == 0:
		return nil
	}
	guest := differs(int(cred.Pid), "user") && differs(int(cred.Pid), "net")
	switch {
	case !isAlive(fd): // asked last: so the pid was not reused before
		return ErrNotRunning
	case guest:
		return errImpostor
	}
	return nil
}

// differs reports whether a process is known to be in another namespace than we are.
func differs(pid int, kind string) bool {
	own, err := os.Stat("/proc/self/ns/" + kind)
	theirs, theirErr := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	return err == nil && theirErr == nil && !os.SameFile(own, theirs)
}

// isAlive reports whether the process that listens at the other end of a connection still
// exists. Before Linux 6.5 it assumes so.
func isAlive(fd int) bool {
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return err == unix.ENOPROTOOPT
	}
	defer unix.Close(pidfd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return n == 0 && err == nil
}
