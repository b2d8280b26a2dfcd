package forwarder

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// socket opens a non-blocking socket of the address's family. Out of
// descriptors, it gives up the least wanted dial or mapping and tries again.
func (f *Forwarder) socket(addr netip.Addr, typ, proto int) (int, unix.Errno) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	for try := 0; ; try++ {
		fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
		if err == nil {
			return fd, 0
		}
		errno := err.(unix.Errno)
		if try > 0 || errno != unix.EMFILE && errno != unix.ENFILE {
			return -1, errno
		}
		if d := f.dials.victim(); d != nil {
			d.cancel()
		} else if !f.mappings.evict() {
			return -1, errno
		}
	}
}

func connect(fd int, to netip.AddrPort) unix.Errno {
	var sa sockio.Addr
	sa.Set(to)
	return sockio.Connect(fd, &sa)
}

// socketError takes the pending error of a socket.
func socketError(fd int) unix.Errno {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err.(unix.Errno)
	}
	return unix.Errno(v)
}
