package api

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// checkPeer returns an error for clients that are not permitted: users other than
// ours and root, and sockets of another network namespace than the listener's,
// such as the guest's.
func (f *socketFile) checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var refusal error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			refusal = fmt.Errorf("read the client's user: %w", err)
			return
		}
		if refusal = checkUser(cred.Uid, uint32(os.Geteuid())); refusal != nil {
			return
		}
		// The kernel makes the accepted socket in the namespace of the one
		// that connected (net/unix/af_unix.c, unix_stream_connect).
		cookie, err := netnsCookie(fd)
		if err == nil && f.netns != 0 && cookie != f.netns {
			refusal = errors.New("the client is in another network namespace than this program")
		}
	})
	return errors.Join(err, refusal)
}

// checkUser compares effective users. The caller reads ours each time, because a
// sandbox may change it. All users that our user namespace does not map have the
// number 65534, which is never ours.
func checkUser(peer, own uint32) error {
	if peer == own || peer == 0 {
		return nil
	}
	return fmt.Errorf("user %d is not permitted, only %d and root are", peer, own)
}

// netnsCookie identifies the network namespace of a socket until the next boot
// (Linux 5.14).
func netnsCookie(fd uintptr) (uint64, error) {
	return unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}
