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

const (
	// childSocket is the child's end of the socket pair, after execve.
	childSocket = 3
	// aboveChild is where the parent's descriptors for the child begin, so
	// that none of them is childSocket.
	aboveChild = 10
)

// Stages of the child before execve, as reported when one fails. None is the
// first byte of a JSON object.
const (
	stageSetns = 1 + iota
	stageDup
	stageExec
	stageConfine
	reportLen = 8 // stage, index of the setns step, 2 bytes of nothing, errno
)

// launch is everything the child touches between clone and execve, laid out
// before: there it may not allocate, lock, grow its stack or be scheduled.
type launch struct {
	steps   [2]setns
	nsteps  int
	socket  int
	parent  uintptr
	path    *byte
	argv    **byte
	envv    **byte
	capHdr  unix.CapUserHeader
	capData [2]unix.CapUserData
	ambient uintptr // the capability that execve is to leave
	report  [reportLen]byte
	agent   *agentChild // not nil: hand out sockets instead of execve
}

func newLaunch(j *join, socket int, argv, envv []string) (*launch, error) {
	l := &launch{socket: socket, parent: uintptr(unix.Getpid())}
	l.nsteps = copy(l.steps[:], j.steps)
	l.capHdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	var err error
	if l.path, err = unix.BytePtrFromString("/proc/self/exe"); err != nil {
		return nil, err
	}
	if l.argv, err = pointers(argv); err != nil {
		return nil, err
	}
	if l.envv, err = pointers(envv); err != nil {
		return nil, err
	}
	return l, nil
}

// pointers makes a NULL-terminated array of C strings.
func pointers(ss []string) (**byte, error) {
	out := make([]*byte, len(ss)+1)
	for i, s := range ss {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return &out[0], nil
}

// start clones the child. The caller must hold its OS thread until the child is
// reaped: the child is killed when the thread that made it ends.
//
// A plain fork, not CLONE_VM: a change of credentials in a child that shares
// our memory would change our dumpable flag, too.
//
//go:norace
func (l *launch) start() (pid int, errno unix.Errno) {
	syscall.ForkLock.Lock()
	beforeFork()
	r, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || r != 0 {
		afterFork()
		syscall.ForkLock.Unlock()
		runtime.KeepAlive(l)
		return int(r), errno
	}
	l.child()
	return 0, 0 // never: child does not return
}

// child joins the target and becomes the program anew.
//
//go:norace
//go:nosplit
func (l *launch) child() {
	afterForkInChild()

	var errno unix.Errno
	if l.agent != nil {
		// Before setns, so that there is no moment in which the guest could
		// look into this copy of our memory.
		syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0)
	}
	for i := 0; i < l.nsteps; i++ {
		_, _, errno = syscall.RawSyscall(unix.SYS_SETNS, uintptr(l.steps[i].fd), uintptr(l.steps[i].flags), 0)
		if errno != 0 {
			l.fail(stageSetns, byte(i), errno)
		}
	}

	if l.agent != nil {
		l.handOut()
	}

	// Ambient, so that execve keeps it where we are not root. Refusal is not
	// an error: root needs none of this.
	_, _, errno = syscall.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&l.capHdr)), uintptr(unsafe.Pointer(&l.capData[0])), 0)
	if errno == 0 {
		l.capData[0].Inheritable |= 1 << l.ambient
		syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&l.capHdr)), uintptr(unsafe.Pointer(&l.capData[0])), 0)
		syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, l.ambient, 0, 0, 0)
	}

	// After setns, because a change of credentials clears it.
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	if ppid, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); ppid != l.parent {
		l.exit()
	}

	_, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(l.socket), childSocket, 0)
	if errno != 0 {
		l.fail(stageDup, 0, errno)
	}
	// The caller's own descriptors (ready-fd, exit-fd) are not close-on-exec;
	// a child that kept them would hold the caller up. Linux 5.11; before, the
	// child holds them for the milliseconds it lives.
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, childSocket+1, uintptr(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)

	_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(l.path)), uintptr(unsafe.Pointer(l.argv)), uintptr(unsafe.Pointer(l.envv)))
	l.fail(stageExec, 0, errno)
}

//go:norace
//go:nosplit
func (l *launch) fail(stage, step byte, errno unix.Errno) {
	l.report[0] = stage
	l.report[1] = step
	l.report[4] = byte(errno)
	l.report[5] = byte(errno >> 8)
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(l.socket), uintptr(unsafe.Pointer(&l.report[0])), reportLen)
	l.exit()
}

//go:norace
//go:nosplit
func (l *launch) exit() {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}
