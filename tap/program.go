package tap

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime's hooks around fork, as package syscall uses them. They block
// signals and make any attempt to grow the stack in between a crash instead of
// a corruption. They are on the runtime's list of names kept for linkname
// (go.dev/issue/67401).

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// Stages of the child, as reported when one fails.
const (
	stageSetns = 1 + iota
	stageDup
	stageConfine
	stageExecute
	stageSend
	// reportLen is the length of a report: stage, index of the setns step, 2 bytes of
	// nothing, errno, 2 bytes of nothing. An agent's answer is as long: 0, family, tag,
	// errno.
	reportLen = 8
)

// program is a child's program, and all the memory that it uses, laid out before the fork.
// The child is one thread of ours, in our memory or a copy of that, which never runs the
// scheduler or the collector again. So it may not allocate, lock, grow its stack or store a
// pointer: during a collection, a store would go into the write barrier's buffer, which in a
// copy is never emptied.
type program struct {
	steps   [maxSteps]setns
	nsteps  int
	socket  int
	parent  uintptr // with which it ends; 0: it does not
	capHdr  unix.CapUserHeader
	capData [2]unix.CapUserData
	report  [reportLen]byte

	// What the child is for, one of:
	opener *openProgram
	agent  *agentProgram
	enter  *enterProgram
}

func newProgram(j *join, socket int) *program {
	p := &program{socket: socket, parent: uintptr(unix.Getpid())}
	p.nsteps = copy(p.steps[:], j.steps)
	p.capHdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	return p
}

// fork starts a child with a copy of our memory, which may outlive the call.
//
//go:norace
func (p *program) fork() (pid int, errno unix.Errno) {
	syscall.ForkLock.Lock()
	beforeFork()
	r, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || r != 0 {
		afterFork()
		syscall.ForkLock.Unlock()
		runtime.KeepAlive(p)
		return int(r), errno
	}
	p.child()
	return 0, 0 // never: child does not return
}

// vfork runs a child in our memory, and returns when it has ended. A copy would cost more
// than all that the child does: the page tables of a Go program, and then each page that
// it writes to. But the thread, and with it the collector, waits, so the child makes no
// call that blocks.
//
// The child makes itself not dumpable and changes credentials. As the memory is shared, we
// are not dumpable meanwhile either, and the guest can look into it by neither process.
//
//go:norace
func (p *program) vfork() (pid int, errno unix.Errno) {
	syscall.ForkLock.Lock()
	dumpable, _, _ := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_DUMPABLE, 0, 0)
	beforeFork()
	pid, errno = p.share()
	afterFork()
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, dumpable, 0)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(p)
	return pid, errno
}

// share has a stack frame of its own: the child uses the stack from here on, and leaves
// what is above it alone.
//
//go:norace
//go:noinline
//go:nosplit
func (p *program) share() (pid int, errno unix.Errno) {
	r, e := cloneHere(unix.CLONE_VM | unix.CLONE_VFORK | uintptr(unix.SIGCHLD))
	if e != 0 || r != 0 {
		return int(r), unix.Errno(e)
	}
	p.child()
	return 0, 0 // never: child does not return
}

// child joins the target and does its work. It does not return.
//
//go:norace
//go:nosplit
func (p *program) child() {
	afterForkInChild()

	// Before setns, so that there is no moment in which the guest could look
	// into our memory by this process.
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0)
	for i := 0; i < p.nsteps; i++ {
		_, _, errno := syscall.RawSyscall(unix.SYS_SETNS, uintptr(p.steps[i].fd), uintptr(p.steps[i].kind), 0)
		if errno != 0 {
			p.fail(stageSetns, byte(i), errno)
		}
	}
	if p.agent != nil {
		p.handOut()
	}
	p.dieWithParent()
	if p.enter != nil {
		p.execute()
	}
	p.open()
}

// dieWithParent comes after the last change of credentials, which would undo it.
//
//go:norace
//go:nosplit
func (p *program) dieWithParent() {
	if p.parent == 0 {
		return
	}
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	if ppid, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); ppid != p.parent {
		p.exit()
	}
}

//go:norace
//go:nosplit
func (p *program) fail(stage, step byte, errno unix.Errno) {
	p.report[0] = stage
	p.report[1] = step
	p.report[4] = byte(errno)
	p.report[5] = byte(errno >> 8)
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(p.socket), uintptr(unsafe.Pointer(&p.report[0])), reportLen)
	p.exit()
}

//go:norace
//go:nosplit
func (p *program) exit() {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}

// message is what a child sends: bytes, and descriptors (SCM_RIGHTS).
type message struct {
	msg unix.Msghdr
	iov unix.Iovec
	hdr unix.Cmsghdr
	fds [maxSockets]int32 // behind hdr without a gap, as in a control message
}

// layOut comes before clone.
func (m *message) layOut(bytes []byte) {
	m.iov.Base, m.iov.Len = &bytes[0], uint64(len(bytes))
	m.msg.Iov, m.msg.Iovlen = &m.iov, 1
	m.msg.Control = (*byte)(unsafe.Pointer(&m.hdr))
	m.hdr.Level, m.hdr.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
}

// send sends it with the first n descriptors. ETOOMANYREFS: this user has more descriptors
// in flight, between any processes, than one process may have open (unix(7)).
//
//go:norace
//go:nosplit
func (m *message) send(socket, n int) unix.Errno {
	m.hdr.Len = unix.SizeofCmsghdr + 4*uint64(n)
	m.msg.Controllen = m.hdr.Len
	if n == 0 {
		m.msg.Controllen = 0
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(socket), uintptr(unsafe.Pointer(&m.msg)), unix.MSG_NOSIGNAL)
	return errno
}
