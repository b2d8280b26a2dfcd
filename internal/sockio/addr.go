// Package sockio is the part of the socket interface that the data path calls
// for every datagram: addresses in the kernel's form, and batches.
//
// # Theory of operation
//
// The wrappers of x/sys and net allocate an address per call and move one
// datagram at a time. Here the caller owns the memory: an Addr, a Message and
// the vectors are reused from call to call, and nothing escapes but the raw
// system call. All sockets are non-blocking, so the calls are raw too: they do
// not tell the scheduler, which costs more than they do.
//
// It holds no global state and opens no sockets: callers do.
package sockio

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Addr is an IPv4 or IPv6 socket address in the kernel's form.
type Addr struct {
	raw unix.RawSockaddrInet6 // large enough for either family
	len uint32
}

// Set sets the address.
func (s *Addr) Set(a netip.AddrPort) {
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

// SetScope sets the index of the interface that a link-local IPv6 address is on;
// Set ignores zones.
func (s *Addr) SetScope(index uint32) { s.raw.Scope_id = index }

// Is6 reports whether it is an IPv6 address.
func (s *Addr) Is6() bool { return s.raw.Family == unix.AF_INET6 }

// AddrPort reads the address; it is not valid if the kernel gave none.
func (s *Addr) AddrPort() netip.AddrPort {
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

// Name sets the address as a message's destination.
func (s *Addr) Name(h *unix.Msghdr) {
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(&s.raw)), s.len
}

// Room has the kernel write a message's sender into the address.
func (s *Addr) Room(h *unix.Msghdr) {
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(&s.raw)), unix.SizeofSockaddrInet6
}

// took notes how many bytes the kernel has written, and clears the rest: leftovers of the
// other family would make equal addresses differ.
func (s *Addr) took(n uint32) {
	s.len = n
	if n < unix.SizeofSockaddrInet6 {
		clear((*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(&s.raw))[n:])
	}
}

// AddrFromBytes reads a socket address out of a control message.
func AddrFromBytes(b []byte) (s Addr) {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&s.raw)), unix.SizeofSockaddrInet6), b)
	return s
}

// Connect is connect(2).
func Connect(fd int, to *Addr) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to.raw)), uintptr(to.len))
	return errno
}

// Disconnect undoes Connect, as connect(2) does with AF_UNSPEC.
func Disconnect(fd int) unix.Errno {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
	return errno
}

// Connected reports whether a stream socket has a peer (getpeername(2)). A connect
// on this machine is often complete when connect(2) reports that it is in progress.
func Connected(fd int) bool {
	var a Addr
	size := uint32(unix.SizeofSockaddrInet6)
	_, _, errno := unix.RawSyscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), uintptr(unsafe.Pointer(&size)))
	return errno == 0
}

// Closed reports whether a TCP connection is over, TIME-WAIT included, which the kernel
// keeps without the socket.
func Closed(fd int) bool { return !Connected(fd) }

// Error takes the pending error of a socket (SO_ERROR).
func Error(fd int) unix.Errno {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err.(unix.Errno)
	}
	return unix.Errno(v)
}

// Bind is bind(2).
func Bind(fd int, to *Addr) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&to.raw)), uintptr(to.len))
	return errno
}

// DeferPort has the next bind(2) of a stream socket to an address without a port
// leave the port to connect(2) (IP_BIND_ADDRESS_NO_PORT, Linux 4.2, of either
// family). A port chosen by bind is used for one destination only, so all
// destinations together would share the host's some 28000.
func DeferPort(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) }

// LocalAddr is getsockname(2), not valid for a socket without an IP address.
func LocalAddr(fd int) netip.AddrPort {
	var a Addr
	size := uint32(unix.SizeofSockaddrInet6)
	if _, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return netip.AddrPort{}
	}
	return a.AddrPort()
}

// Accept is accept4(2): a non-blocking, close-on-exec socket and its peer.
func Accept(fd int) (int, netip.AddrPort, unix.Errno) {
	var peer Addr
	size := uint32(unix.SizeofSockaddrInet6)
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&peer.raw)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(n), peer.AddrPort(), errno
}
