package sandbox

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// kept are the capabilities needed later: ports below 1024 may be published at any time, and
// raw sockets send echo requests if there are no ping sockets.
const kept = 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_RAW

// capabilities returns the calling thread's, which all threads have.
func capabilities() (unix.CapUserHeader, [2]unix.CapUserData, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return header, data, fmt.Errorf("read capabilities: %w", err)
	}
	return header, data, nil
}

// dropCapabilities drops them on all threads, ambient ones with the others. The bounding set
// does not matter to a program that cannot execute another.
func dropCapabilities() error {
	header, data, err := capabilities()
	if err != nil {
		return err
	}
	want := [2]unix.CapUserData{{Permitted: data[0].Permitted & kept, Effective: data[0].Permitted & kept}}
	if data == want {
		return nil
	}
	if _, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want[0])), 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}
