package forwarder

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
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

// sockaddr is a socket address in the kernel's form.
type sockaddr struct {
	raw unix.RawSockaddrInet6 // large enough for either family
	len uint32
}

func (s *sockaddr) set(a netip.AddrPort) {
	port := a.Port()
	be := [2]byte{byte(port >> 8), byte(port)}
	if a.Addr().Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().As4()}
		*(*[2]byte)(unsafe.Pointer(&sa.Port)) = be
		s.len = unix.SizeofSockaddrInet4
		return
	}
	s.raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.Addr().As16()}
	*(*[2]byte)(unsafe.Pointer(&s.raw.Port)) = be
	s.len = unix.SizeofSockaddrInet6
}

// addrPort reads the address; it is not valid if the kernel gave none.
func (s *sockaddr) addrPort() netip.AddrPort {
	be := *(*[2]byte)(unsafe.Pointer(&s.raw.Port)) // at the same place in both
	port := uint16(be[0])<<8 | uint16(be[1])
	switch s.raw.Family {
	case unix.AF_INET:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.raw.Addr).Unmap(), port)
	}
	return netip.AddrPort{}
}

func connect(fd int, to netip.AddrPort) unix.Errno {
	var sa sockaddr
	sa.set(to)
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa.raw)), uintptr(sa.len))
	return errno
}

// socketError takes the pending error of a socket.
func socketError(fd int) unix.Errno {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err.(unix.Errno)
	}
	return unix.Errno(v)
}
