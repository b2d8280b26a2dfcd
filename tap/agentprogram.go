package tap

import (
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxSockets is how many sockets one answer of the agent carries at most;
	// the kernel's limit is 253 (SCM_MAX_FD).
	maxSockets = 64
	// agentSocket is the agent's end of the socket pair, its only descriptor.
	agentSocket = 0
	// orderLen is the length of an order: address family and flags, count, and the Agent's
	// tag. In an order about a rule (orderRule) the netlink message follows.
	orderLen = 4
	// orderPlain is set for sockets that the receiver binds, without the options of those
	// that are connected; orderDatagrams for UDP.
	orderPlain     = 0x80
	orderDatagrams = 0x40
	// orderRepair is set for sockets that take over connections: see Agent.Repair.
	orderRepair = 0x20
	orderFamily = 0x1f
	// loIndex is the interface index of lo in every namespace.
	loIndex = 1
	loName  = "lo"
)

// agentProgram is the memory that the agent uses after clone, laid out before.
type agentProgram struct {
	name    [16]byte
	root    [2]byte
	caps    uint32            // kept, of those below 32
	options [2][]socketOption // of every socket of a family
	repair  [2][]socketOption // of those that take connections over
	order   [orderLen + maxRule]byte
	rules   ruleProgram
	answer  [reportLen]byte
	message message
	filter  []unix.SockFilter // of system calls; none: all are permitted
	fprog   unix.SockFprog
}

// Indexes of families.
const (
	v4 = iota
	v6
)

func newAgentProgram(transparent [2]bool, filter []unix.SockFilter) *agentProgram {
	a := &agentProgram{filter: filter}
	if len(filter) > 0 {
		a.fprog = unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	}
	a.message.layOut(a.answer[:])
	a.rules.layOut(a.order[:])
	copy(a.name[:], agentName)
	a.root = [2]byte{'/', 0}
	for f := range a.options {
		// Options that the relay wants on every connection are set here, off its path.
		list := []socketOption{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		}
		if f == v6 {
			list = append(list, socketOption{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1})
		}
		if transparent[f] {
			a.caps = 1 << unix.CAP_NET_ADMIN
			option := socketOption{unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1}
			if f == v6 {
				option = socketOption{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1}
			}
			a.repair[f] = append(slices.Clone(list), option, socketOption{unix.IPPROTO_TCP, unix.TCP_REPAIR, 1},
				socketOption{unix.SOL_SOCKET, unix.SO_MARK, directMark})
			list = append(list, option,
				socketOption{unix.SOL_SOCKET, unix.SO_MARK, directMark},
				// Only on lo, where the kernel lets a port in TIME-WAIT be used
				// again after a second, as with loopback addresses
				// (net.ipv4.tcp_tw_reuse, 2).
				socketOption{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, loIndex},
				socketOption{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
				// The port is chosen when the destination is known.
				socketOption{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1})
		}
		a.options[f] = list
	}
	return a
}

// handOut is the life of the agent, after setns. It does not return.
//
//go:norace
//go:nosplit
func (p *program) handOut() {
	p.confine()
	a := p.agent
	for {
		n, errno := a.rules.receive()
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || n < orderLen {
			p.exit()
		}
		made := 0
		if a.order[0] == orderRule {
			a.change(n - orderLen)
		} else {
			made = a.make()
		}
		if errno := a.message.send(agentSocket, made); errno != 0 {
			a.stoppedBy(errno)
			a.message.send(agentSocket, 0)
		}
		for i := 0; i < made; i++ {
			syscall.RawSyscall(unix.SYS_CLOSE, uintptr(a.message.fds[i]), 0, 0)
		}
	}
}

// confine gives up what setns gave, and what the agent shares with us, as far as it
// does not need that.
//
//go:norace
//go:nosplit
func (p *program) confine() {
	_, _, errno := syscall.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&p.capHdr)), uintptr(unsafe.Pointer(&p.capData[0])), 0)
	if errno != 0 {
		p.fail(stageConfine, 0, errno)
	}
	p.capData[0].Permitted &= p.agent.caps
	p.capData[0].Effective = p.capData[0].Permitted
	p.capData[0].Inheritable = 0
	p.capData[1] = unix.CapUserData{}
	_, _, errno = syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&p.capHdr)), uintptr(unsafe.Pointer(&p.capData[0])), 0)
	if errno != 0 {
		p.fail(stageConfine, 1, errno)
	}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&p.agent.name[0])), 0)
	// In a session of its own no signal of the terminal reaches it.
	syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(&p.agent.root[0])), 0, 0)

	p.dieWithParent()

	_, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(p.socket), agentSocket, 0)
	if errno != 0 {
		p.fail(stageDup, 0, errno)
	}
	p.socket = agentSocket
	_, _, errno = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, agentSocket+1, uintptr(^uint32(0)), 0)
	if errno != 0 {
		p.fail(stageConfine, 2, errno) // an agent that held our descriptors would be a hole
	}
	if p.agent.caps != 0 {
		// It gets the lowest free descriptor, rulesSocket. Without it orders about rules fail.
		syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	}
	if p.agent.fprog.Len > 0 {
		// On a kernel without filters the agent goes on.
		syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&p.agent.fprog)))
	}
}

// make makes the sockets of an order, or as many as the kernel gives. The answer
// holds the family and flags, the tag, and the error that stopped it.
//
//go:norace
//go:nosplit
func (a *agentProgram) make() int {
	a.answer = [reportLen]byte{1: a.order[0], 2: a.order[2], 3: a.order[3]}
	f, domain := v4, uintptr(unix.AF_INET)
	if a.order[0]&orderFamily == unix.AF_INET6 {
		f, domain = v6, unix.AF_INET6
	}
	typ, proto := uintptr(unix.SOCK_STREAM), uintptr(unix.IPPROTO_TCP)
	if a.order[0]&orderDatagrams != 0 {
		typ, proto = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	}
	made := 0
	for made < int(a.order[1]) && made < maxSockets {
		fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
		if errno == 0 && a.order[0]&orderPlain == 0 {
			options := a.options[f]
			if a.order[0]&orderRepair != 0 {
				options = a.repair[f]
			}
			if errno = setOptions(fd, options); errno != 0 {
				syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
			}
		}
		if errno != 0 {
			a.stoppedBy(errno)
			break
		}
		a.message.fds[made] = int32(fd)
		made++
	}
	return made
}

//go:norace
//go:nosplit
func (a *agentProgram) stoppedBy(errno unix.Errno) {
	a.answer[4] = byte(errno)
	a.answer[5] = byte(errno >> 8)
}
