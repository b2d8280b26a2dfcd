package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// checkPeer refuses who may not ask: other users than ours and root, and
// sockets of another network namespace than the listener's, such as the guest's.
func (f *socketFile) checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var refusal error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			refusal = fmt.Errorf("read peer's user: %w", err)
			return
		}
		if refusal = checkUser(cred.Uid, uint32(os.Geteuid())); refusal != nil {
			return
		}
		// The kernel makes the accepted socket in the namespace of the one
		// that connected (net/unix/af_unix.c, unix_stream_connect).
		cookie, err := netnsCookie(int(fd))
		if err == nil && f.netns != 0 && cookie != f.netns {
			refusal = errors.New("clients of another network namespace than the program's are not answered")
		}
	})
	return errors.Join(err, refusal)
}

// checkUser compares effective users. Ours is asked for anew each time: a
// sandbox may have changed it. Users that our user namespace does not know all
// have one number (65534), which is nobody's but theirs.
func checkUser(peer, own uint32) error {
	if peer == own || peer == 0 {
		return nil
	}
	return fmt.Errorf("user %d may not ask: only %d and root may", peer, own)
}

// netnsCookie identifies the network namespace of a socket until the next boot.
func netnsCookie(fd int) (uint64, error) {
	var cookie uint64
	size := uint32(unsafe.Sizeof(cookie))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE,
		uintptr(unsafe.Pointer(&cookie)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return cookie, nil
}
