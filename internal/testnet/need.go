package testnet

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Need skips the test where err is one of those by which the kernel says that a thing cannot
// be had here: not built in, or not for this user. Any other error is the test's.
func Need(t testing.TB, what string, err error, lacking ...unix.Errno) {
	t.Helper()
	if slices.ContainsFunc(lacking, func(errno unix.Errno) bool { return errors.Is(err, errno) }) {
		t.Skipf("%s cannot be had here: %v", what, err)
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// NeedNamespaces is Need with the err of who makes namespaces: this user may not, or too
// many are there.
func NeedNamespaces(t testing.TB, err error) {
	t.Helper()
	Need(t, "a namespace", err, unix.EPERM, unix.ENOSPC)
}

// NeedTUN skips the test where there are no TAP devices to be had.
func NeedTUN(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	Need(t, "a TAP device", err, unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.EACCES, unix.EPERM)
	f.Close()
}

// OwnNetwork moves the test into a network namespace of its own, where lo is up. The
// thread ends with the test, and the namespace with it.
func OwnNetwork(t testing.TB) netlink.Link {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		NeedNamespaces(t, err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return lo
}
