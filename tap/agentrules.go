package tap

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// orderRule is the code of an order about a rule of policy routing. No order of
	// sockets has it: 0 is AF_UNSPEC.
	orderRule = 0
	// maxRule is the longest netlink message of such an order.
	maxRule = 160
	// rulesSocket is the agent's netlink socket, its other descriptor.
	rulesSocket = 1
	// handedSocket is the one that has come with an order, as long as that takes.
	handedSocket = 2
)

// ruleProgram is the memory that the agent uses for an order, laid out before clone. A rule
// may come with a socket, which leaves repair mode once the rule exists, and enters it again
// when the rule goes. Both steps need CAP_NET_ADMIN.
type ruleProgram struct {
	msg    unix.Msghdr
	iov    unix.Iovec
	hdr    unix.Cmsghdr
	fd     [2]int32 // behind hdr without a gap, as in a control message
	repair int32    // what TCP_REPAIR is set to
	first  [1]byte  // that a socket sends
	answer [64]byte // the kernel's: its header, the error, and the beginning of the message
}

func (r *ruleProgram) layOut(order []byte) {
	r.iov.Base, r.iov.Len = &order[0], uint64(len(order))
	r.msg.Iov, r.msg.Iovlen = &r.iov, 1
	r.msg.Control = (*byte)(unsafe.Pointer(&r.hdr))
}

// receive waits for an order.
//
//go:norace
//go:nosplit
func (r *ruleProgram) receive() (int, unix.Errno) {
	r.hdr.Len = 0
	r.msg.Controllen = unix.SizeofCmsghdr + 8
	n, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, agentSocket, uintptr(unsafe.Pointer(&r.msg)), 0)
	return int(n), errno
}

// change has the kernel carry out the netlink message of an order, n bytes, and sets the
// repair mode of the socket that came with it.
//
//go:norace
//go:nosplit
func (a *agentProgram) change(n int) {
	a.answer = [reportLen]byte{1: orderRule, 2: a.order[2], 3: a.order[3]}
	errno := a.rules.ask(&a.order[orderLen], n)
	if r := &a.rules; r.hdr.Len == unix.SizeofCmsghdr+4 {
		r.repair = 0
		if (*unix.NlMsghdr)(unsafe.Pointer(&a.order[orderLen])).Type == unix.RTM_DELRULE {
			r.repair = 1
		}
		if errno == 0 {
			_, _, errno = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(r.fd[0]), unix.IPPROTO_TCP, unix.TCP_REPAIR, uintptr(unsafe.Pointer(&r.repair)), 4, 0)
		}
		if errno == 0 && r.repair == 0 {
			// It fails if the guest has reset the connection already, which is told by the socket.
			syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(r.fd[0]), uintptr(unsafe.Pointer(&r.first[0])), 1, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		}
		syscall.RawSyscall(unix.SYS_CLOSE, uintptr(r.fd[0]), 0, 0)
	}
	if errno != 0 {
		a.stoppedBy(errno)
	}
}

// ask sends a netlink message and reads the answer, which is there at once.
//
//go:norace
//go:nosplit
func (r *ruleProgram) ask(message *byte, n int) unix.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, rulesSocket, uintptr(unsafe.Pointer(message)), uintptr(n), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	got, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, rulesSocket, uintptr(unsafe.Pointer(&r.answer[0])), uintptr(len(r.answer)), unix.MSG_DONTWAIT, 0, 0)
	switch header := (*unix.NlMsghdr)(unsafe.Pointer(&r.answer[0])); {
	case errno != 0:
		return errno
	case got < unix.SizeofNlMsghdr+4 || header.Type != unix.NLMSG_ERROR:
		return unix.EPROTO
	}
	return unix.Errno(-*(*int32)(unsafe.Pointer(&r.answer[unix.SizeofNlMsghdr])))
}
