package forwarder

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

func familyOf(addr netip.Addr) int {
	if addr.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// open opens a non-blocking socket. If there is no descriptor, it has the table free one
// and tries again.
func (f *Forwarder) open(family, typ, proto int) (int, unix.Errno) {
	fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if (err == unix.EMFILE || err == unix.ENFILE) && f.cfg.Table.FreeDescriptor() {
		fd, err = unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	}
	if err != nil {
		return -1, err.(unix.Errno)
	}
	return fd, 0
}

// socket opens a non-blocking socket towards an address, or at least its family, bound
// to the configured source.
func (f *Forwarder) socket(addr netip.Addr, typ, proto int) (int, unix.Errno) {
	fd, errno := f.open(familyOf(addr), typ, proto)
	if errno != 0 {
		return -1, errno
	}
	if typ == unix.SOCK_STREAM {
		errno = f.cfg.Source.Bind(fd, addr)
	} else {
		errno = f.cfg.Source.BindAddress(fd, addr)
	}
	if errno != 0 {
		unix.Close(fd)
		return -1, errno
	}
	return fd, 0
}
