package portfwd

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ErrNoRule is returned for a rule that is not, or no longer, in force.
var ErrNoRule = errors.New("no published port has it")

// Entry is a rule in force. Its Host, Guest, Proto and GuestPort are filled in.
type Entry struct {
	ID   int
	Rule Rule
}

// BindError says that the kernel refused to listen.
type BindError struct {
	Proto  string
	Addr   netip.AddrPort
	Device string // that clients have to come by; empty: any
	Errno  unix.Errno
	Remedy string // what to do, empty if nothing is to be said
}

func (e *BindError) Error() string {
	s := fmt.Sprintf("listen on %s %v", e.Proto, e.Addr)
	if e.Device != "" {
		s += "%" + e.Device
	}
	s += ": " + e.Errno.Error()
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

// Unwrap returns the errno.
func (e *BindError) Unwrap() error { return e.Errno }

func bindError(p place, errno unix.Errno) *BindError {
	e := &BindError{Proto: p.proto, Addr: p.addr, Device: p.device, Errno: errno}
	switch {
	case errno == unix.EADDRINUSE && p.guest:
		e.Remedy = "another program of the guest has the port: stop it, or choose another guest port"
	case errno == unix.EACCES && p.guest:
		e.Remedy = "ports below 1024 are closed to us there: choose another guest port"
	case errno == unix.EADDRNOTAVAIL && p.guest, errno == unix.ENODEV && p.guest:
		e.Remedy = "the guest has no such address or interface"
	case errno == unix.EACCES && p.addr.Port() < 1024:
		e.Remedy = fmt.Sprintf("ports below 1024 are closed to this user: as root, sysctl -w net.ipv4.ip_unprivileged_port_start=%d", p.addr.Port())
	case errno == unix.EADDRINUSE:
		e.Remedy = "another program has the port"
	case errno == unix.EADDRNOTAVAIL:
		e.Remedy = "no interface of this machine has the address"
	case errno == unix.ENODEV && p.device != "":
		e.Remedy = "this machine has no such interface"
	case errno == unix.EMFILE || errno == unix.ENFILE:
		e.Remedy = "raise the limit of open files, ulimit -n"
	}
	return e
}
