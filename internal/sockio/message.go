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

// SendMessages sends a batch and returns how many went; an error is the first
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

// SendMessage is sendmsg(2).
func SendMessage(fd int, h *unix.Msghdr) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(h)), unix.MSG_NOSIGNAL)
	return errno
}

// Send is send(2) on a connected socket; b must not be empty.
func Send(fd int, b []byte) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	return errno
}

// SendTo is sendto(2); b must not be empty.
func SendTo(fd int, b []byte, to *Addr) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, uintptr(unsafe.Pointer(&to.raw)), uintptr(to.len))
	return errno
}

// PutControl writes the header of a control message with size bytes of data, at
// most eight, which begin eight bytes before the end of what it returns.
func PutControl(b []byte, level, typ, size int) int {
	clear(b[:unix.CmsgSpace(size)])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = int32(level), int32(typ)
	h.SetLen(unix.CmsgLen(size))
	return unix.CmsgSpace(size)
}

// Vec is the vector of a slice.
func Vec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}
