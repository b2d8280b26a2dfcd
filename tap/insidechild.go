package tap

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxOpenings is how many descriptors one child opens at most.
	maxOpenings = 4
	// answerLen is the length of its answer: an errno for each opening.
	answerLen = 4 * maxOpenings
)

// opening is a system call that returns a descriptor.
type opening struct {
	nr   uintptr
	args [3]uintptr
	path *byte // what an argument points to
}

// openFile is open(2), of a path without a zero byte.
func openFile(path string, flags int) opening {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		panic(err)
	}
	at := unix.AT_FDCWD
	return opening{unix.SYS_OPENAT, [3]uintptr{uintptr(at), uintptr(unsafe.Pointer(p)), uintptr(flags | unix.O_CLOEXEC)}, p}
}

// openSocket is socket(2).
func openSocket(domain, typ, protocol int) opening {
	return opening{unix.SYS_SOCKET, [3]uintptr{uintptr(domain), uintptr(typ | unix.SOCK_CLOEXEC), uintptr(protocol)}, nil}
}

// openChild is what a child that opens descriptors touches after clone, laid
// out before.
type openChild struct {
	openings [maxOpenings]opening
	count    int
	answer   [maxOpenings]uint32
	control  rights
	iov      unix.Iovec
	msg      unix.Msghdr
}

func newOpenChild(openings []opening) *openChild {
	o := new(openChild)
	o.count = copy(o.openings[:], openings)
	return o
}

// open makes the descriptors, sends them and ends the child.
//
//go:norace
//go:nosplit
func (l *launch) open() {
	o := l.opener
	made := 0
	for i := 0; i < o.count; i++ {
		c := &o.openings[i]
		fd, _, errno := syscall.RawSyscall(c.nr, c.args[0], c.args[1], c.args[2])
		if errno != 0 {
			o.answer[i] = uint32(errno)
			continue
		}
		o.control.fds[made] = int32(fd)
		made++
	}
	o.iov.Base = (*byte)(unsafe.Pointer(&o.answer[0]))
	o.iov.Len = answerLen
	o.msg.Iov = &o.iov
	o.msg.Iovlen = 1
	o.control.attach(&o.msg, made)
	syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(l.socket), uintptr(unsafe.Pointer(&o.msg)), unix.MSG_NOSIGNAL)
	l.exit()
}
