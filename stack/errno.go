package stack

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// toErrno converts gVisor's errors, which go no further than this package.
func toErrno(err tcpip.Error) unix.Errno {
	switch err.(type) {
	case nil:
		return 0
	case *tcpip.ErrWouldBlock:
		return unix.EAGAIN
	case *tcpip.ErrClosedForSend, *tcpip.ErrClosedForReceive:
		return unix.EPIPE
	case *tcpip.ErrConnectionRefused:
		return unix.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		return unix.ECONNRESET
	case *tcpip.ErrAborted, *tcpip.ErrConnectionAborted:
		return unix.ECONNABORTED
	case *tcpip.ErrTimeout:
		return unix.ETIMEDOUT
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown:
		return unix.EHOSTUNREACH
	case *tcpip.ErrNetworkUnreachable, *tcpip.ErrNoNet:
		return unix.ENETUNREACH
	case *tcpip.ErrNotConnected, *tcpip.ErrInvalidEndpointState:
		return unix.ENOTCONN
	case *tcpip.ErrNoBufferSpace:
		return unix.ENOBUFS
	case *tcpip.ErrPortInUse, *tcpip.ErrDuplicateAddress, *tcpip.ErrBadLocalAddress:
		// The last is what connect makes of a tuple that exists. It never means
		// that an address is not local, since spoofing permits every address.
		return unix.EADDRINUSE
	case *tcpip.ErrMessageTooLong:
		return unix.EMSGSIZE
	default:
		return unix.EIO
	}
}
