package sockio

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// QueuedError is an ICMP error that the kernel has queued on a socket (ip(7),
// IP_RECVERR): struct sock_extended_err, the offender after it, and the beginning of
// the packet concerned.
type QueuedError struct {
	Errno              unix.Errno
	Origin, Type, Code uint8      // Origin: SO_EE_ORIGIN_*
	Info               uint32     // of EMSGSIZE: the path MTU; of a parameter problem: the offset; both in bytes
	Offender           netip.Addr // the router that sent it
	To                 netip.AddrPort
	Data               []byte // the beginning of what was sent; valid during the call
}

// FromICMP reports whether Type and Code are those of an ICMP or ICMPv6 message.
func (e *QueuedError) FromICMP() bool {
	return e.Origin == unix.SO_EE_ORIGIN_ICMP || e.Origin == unix.SO_EE_ORIGIN_ICMP6
}

// errorsPerEvent bounds how many are read for one event; the socket's buffer bounds
// the queue itself.
const errorsPerEvent = 32

// ReadErrors hands the errors queued on the socket to each.
func (s *DatagramSocket) ReadErrors(each func(*QueuedError)) {
	var (
		name Addr
		oob  [256]byte
		data [64]byte
		iov  = Vec(data[:])
	)
	for range errorsPerEvent {
		h := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: &oob[0]}
		name.Room(&h)
		h.SetControllen(len(oob))
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(s.FD), uintptr(unsafe.Pointer(&h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno != 0 {
			// Takes an error that has no message, such as one of a socket call.
			Error(s.FD)
			return
		}
		if e, ok := parseError(oob[:h.Controllen]); ok {
			e.To, e.Data = name.AddrPort(), data[:n]
			each(&e)
		}
	}
}

// parseError finds IP_RECVERR or IPV6_RECVERR among the control messages.
func parseError(b []byte) (e QueuedError, ok bool) {
	d := FindControl(b, unix.IPPROTO_IP, unix.IP_RECVERR)
	if d == nil {
		d = FindControl(b, unix.IPPROTO_IPV6, unix.IPV6_RECVERR)
	}
	if len(d) < 16 {
		return e, false
	}
	offender := AddrFromBytes(d[16:])
	return QueuedError{
		Errno:  unix.Errno(binary.NativeEndian.Uint32(d)),
		Origin: d[4], Type: d[5], Code: d[6],
		Info:     binary.NativeEndian.Uint32(d[8:]),
		Offender: offender.AddrPort().Addr(),
	}, true
}
