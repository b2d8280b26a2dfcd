package tap

import "golang.org/x/sys/unix"

// openLoopback brings lo up in the namespaces that j leads to, and returns a Device that
// stands for the missing interface: nothing ever waits on it, and what is written is
// refused.
func openLoopback(j *join) (*Device, error) {
	results, err := ask(j, openRtnetlink())
	if err != nil {
		return nil, err
	}
	conn, err := newRtnetlinkConn(results[0])
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.loopbackUp(); err != nil {
		return nil, err
	}
	// A socket without an address can be watched like a device, and nobody can send to it.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fail("make a device without frames", err, "")
	}
	return &Device{deviceInfo: deviceInfo{name: loName}, fd: fd}, nil
}
