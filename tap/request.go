package tap

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxRequests is how many descriptors one child opens at most: as many as a
	// message carries.
	maxRequests = maxSockets
	// answerLen is the length of its answer: an errno for each request.
	answerLen = 4 * maxRequests
)

// request is a system call that returns a descriptor.
type request struct {
	call uintptr
	args [3]uintptr
	path *byte // what an argument points to
}

// openFile is open(2), of a path without a zero byte.
func openFile(path string, flags int) request {
	ptr, err := unix.BytePtrFromString(path)
	if err != nil {
		panic(err)
	}
	at := unix.AT_FDCWD
	return request{unix.SYS_OPENAT, [3]uintptr{uintptr(at), uintptr(unsafe.Pointer(ptr)), uintptr(flags | unix.O_CLOEXEC)}, ptr}
}

// openSocket is socket(2).
func openSocket(domain, typ, protocol int) request {
	return request{unix.SYS_SOCKET, [3]uintptr{uintptr(domain), uintptr(typ | unix.SOCK_CLOEXEC), uintptr(protocol)}, nil}
}

// openProgram is the memory that a child which opens descriptors uses after clone,
// laid out before.
type openProgram struct {
	requests [maxRequests]request
	count    int
	answer   [maxRequests]uint32
	message  message
}

func newOpenProgram(requests []request) *openProgram {
	o := new(openProgram)
	o.message.layOut((*[answerLen]byte)(unsafe.Pointer(&o.answer))[:])
	o.count = copy(o.requests[:], requests)
	return o
}

// open makes the descriptors, sends them and ends the child.
//
//go:norace
//go:nosplit
func (p *program) open() {
	o := p.opener
	made := 0
	for i := 0; i < o.count; i++ {
		c := &o.requests[i]
		fd, _, errno := syscall.RawSyscall(c.call, c.args[0], c.args[1], c.args[2])
		if errno != 0 {
			o.answer[i] = uint32(errno)
			continue
		}
		o.message.fds[made] = int32(fd)
		made++
	}
	if errno := o.message.send(p.socket, made); errno != 0 {
		p.fail(stageSend, 0, errno)
	}
	p.exit()
}

// socketOption is one integer option of a socket.
type socketOption struct {
	level, name uintptr
	value       int32
}

// setOptions stops at the first option that fails.
//
//go:norace
//go:nosplit
func setOptions(fd uintptr, options []socketOption) unix.Errno {
	for i := range options {
		o := &options[i]
		_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, o.level, o.name, uintptr(unsafe.Pointer(&o.value)), 4, 0)
		if errno != 0 {
			return errno
		}
	}
	return 0
}
