package portfwd

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ErrNoRule is returned for an id that no rule has, or has any more.
var ErrNoRule = errors.New("no such published port")

// Entry is a rule in force. Its Host, Guest, Proto and GuestPort are filled in.
type Entry struct {
	ID   int
	Rule Rule
}

// BindError says that the kernel refused to listen.
type BindError struct {
	Proto  string
	Addr   netip.AddrPort
	Errno  unix.Errno
	Remedy string // what to do, empty if nothing is to be said
}

func (e *BindError) Error() string {
	s := fmt.Sprintf("listen on %s %v: %v", e.Proto, e.Addr, e.Errno)
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

// Unwrap returns the errno.
func (e *BindError) Unwrap() error { return e.Errno }

func bindError(proto string, addr netip.AddrPort, errno unix.Errno) error {
	e := &BindError{Proto: proto, Addr: addr, Errno: errno}
	switch {
	case errno == unix.EACCES && addr.Port() < 1024:
		e.Remedy = fmt.Sprintf("ports below 1024 are closed to this user: as root, sysctl -w net.ipv4.ip_unprivileged_port_start=%d", addr.Port())
	case errno == unix.EADDRINUSE:
		e.Remedy = "another program has the port"
	case errno == unix.EADDRNOTAVAIL:
		e.Remedy = "no interface of this machine has the address"
	case errno == unix.EMFILE || errno == unix.ENFILE:
		e.Remedy = "raise the limit of open files, ulimit -n"
	}
	return e
}
