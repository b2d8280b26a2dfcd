package forwarder

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// socket opens a non-blocking socket towards an address, or at least its
// family, bound to the configured source. Out of descriptors, it has the table
// give one back and tries again.
func (f *Forwarder) socket(addr netip.Addr, typ, proto int) (int, unix.Errno) {
	from, bound, err := f.cfg.Source(addr)
	if err != nil {
		return -1, unix.EADDRNOTAVAIL
	}
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if (err == unix.EMFILE || err == unix.ENFILE) && f.cfg.Table.FreeDescriptor() {
		fd, err = unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	}
	if err != nil {
		return -1, err.(unix.Errno)
	}
	if bound {
		if typ == unix.SOCK_STREAM {
			sockio.DeferPort(fd)
		}
		var sa sockio.Addr
		sa.Set(netip.AddrPortFrom(from, 0))
		if errno := sockio.Bind(fd, &sa); errno != 0 {
			unix.Close(fd)
			return -1, errno
		}
	}
	return fd, 0
}
