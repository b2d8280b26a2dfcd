package forwarder

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// socket opens a non-blocking socket towards an address, or at least its
// family, bound to the configured source.
func (f *Forwarder) socket(addr netip.Addr, typ, proto int) (int, unix.Errno) {
	from, bound, err := f.source(addr)
	if err != nil {
		return -1, unix.EADDRNOTAVAIL
	}
	fd, errno := f.unboundSocket(addr, typ, proto)
	if errno == 0 && bound {
		var sa sockio.Addr
		sa.Set(netip.AddrPortFrom(from, 0))
		if errno = sockio.Bind(fd, &sa); errno != 0 {
			unix.Close(fd)
			return -1, errno
		}
	}
	return fd, errno
}

// unboundSocket opens a socket. Out of descriptors, it gives up the least
// wanted dial or mapping and tries again.
func (f *Forwarder) unboundSocket(addr netip.Addr, typ, proto int) (int, unix.Errno) {
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
