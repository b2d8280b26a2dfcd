package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkPeer returns an error for clients that are not permitted: users other than
// ours and root, and sockets of another network namespace than the listener's,
// such as the guest's.
func (f *Socket) checkPeer(c *net.UnixConn) error {
	if err := CheckUser(c); err != nil {
		return err
	}
	cookie, err := NetnsCookie(c)
	if err == nil && f.netns != 0 && cookie != f.netns {
		return errors.New("the client is in another network namespace than this program")
	}
	return nil
}

// CheckUser returns an error for a client of a Unix socket whose user is neither ours nor
// root.
func CheckUser(c *net.UnixConn) error {
	var cred *unix.Ucred
	err := control(c, func(fd uintptr) (err error) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	if err != nil {
		return fmt.Errorf("read the client's user: %w", err)
	}
	return checkUser(cred.Uid, uint32(os.Geteuid()))
}

// NetnsCookie identifies the network namespace of a Unix socket until the next boot (Linux
// 5.14). An accepted socket has the client's: the kernel makes it in the namespace of the
// connecting one (net/unix/af_unix.c, unix_stream_connect).
func NetnsCookie(c syscall.Conn) (cookie uint64, err error) {
	err = control(c, func(fd uintptr) (err error) {
		cookie, err = netnsCookie(fd)
		return err
	})
	return cookie, err
}

func control(c syscall.Conn, f func(fd uintptr) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) { err = f(fd) })
	return errors.Join(controlErr, err)
}

// checkUser compares effective users. The caller reads ours each time, because a sandbox may
// change it. Users that our user namespace does not map all have the number 65534, which is
// never ours.
func checkUser(peer, own uint32) error {
	if peer == own || peer == 0 {
		return nil
	}
	return fmt.Errorf("user %d is not permitted, only %d and root are", peer, own)
}

func netnsCookie(fd uintptr) (uint64, error) {
	return unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}
