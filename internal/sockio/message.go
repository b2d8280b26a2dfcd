package sockio

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Message is struct mmsghdr of sendmmsg(2) and recvmmsg(2).
type Message struct {
	Hdr unix.Msghdr
	Len uint32 // bytes moved
	_   [4]byte
}

// SendMessages sends a batch and returns how many were sent; an error is the first
// message's.
func SendMessages(fd int, msgs []Message) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), 0, 0, 0)
	return int(n), errno
}

// ReceiveMessages receives what waits, at most a batch. EAGAIN: nothing.
func ReceiveMessages(fd int, msgs []Message) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// Send is send(2) on a connected socket; b must not be empty.
func Send(fd int, b []byte) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	return errno
}

// Vec is the vector of a slice.
func Vec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}

// Bytes is the slice of a vector.
func Bytes(v *unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }
