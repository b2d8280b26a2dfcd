//go:build amd64 || arm64

package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"epiphyte/internal/seccomp"
)

// filter is the list of system calls that the program makes once it is ready, each with its
// reason. Rules that check arguments come first: they run at each call, the others never (see
// package seccomp).
func (cfg *Config) filter() (seccomp.Filter, error) {
	f := seccomp.Filter{Kill: hostile, Otherwise: unix.EPERM}
	f.Allow = append(f.Allow, checked...)
	f.Allow = append(f.Allow, cfg.sockets()...)
	if len(cfg.ReadIn) > 0 {
		f.Allow = append(f.Allow, seccomp.Rule{Call: unix.SYS_GETDENTS64})
	}
	if len(cfg.Own) > 0 {
		// A file is written beside the one that it replaces, and its directory is removed
		// (forwards, netdef). Existing files are not opened for writing.
		f.Allow = append(f.Allow,
			is(unix.SYS_OPENAT, 2, unix.O_ACCMODE|unix.O_CREAT|unix.O_EXCL|unix.O_TRUNC|unix.O_APPEND, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL),
			is(unix.SYS_UNLINKAT, 2, anyBit, unix.AT_REMOVEDIR),
			seccomp.Rule{Call: unix.SYS_RENAMEAT}, seccomp.Rule{Call: unix.SYS_FSYNC})
	}
	if cfg.Overwrite {
		f.Allow = append(f.Allow, seccomp.Rule{Call: unix.SYS_PWRITE64}, seccomp.Rule{Call: unix.SYS_FTRUNCATE}) // the oldest lines go (logfile)
	}
	if cfg.Devices {
		// What a TAP is, and the form of its frames (tap).
		f.Allow = append(f.Allow, is(unix.SYS_IOCTL, 1, anyBit,
			unix.TUNGETIFF, unix.TUNGETVNETHDRSZ, unix.TUNSETVNETHDRSZ, unix.TUNSETVNETLE, unix.SIOCGIFHWADDR))
	}
	signals, err := cfg.signals()
	if err != nil {
		return f, err
	}
	f.Allow = append(f.Allow, signals...)
	for _, call := range append(plain[:len(plain):len(plain)], legacy...) {
		f.Allow = append(f.Allow, seccomp.Rule{Call: call})
	}
	return f, nil
}

// is permits a call when one argument, or the bits of mask in it, has one of the
// values.
func is(call uintptr, index int, mask uint32, values ...uint32) seccomp.Rule {
	return seccomp.Rule{Call: call, Args: []seccomp.Arg{{Index: index, Mask: mask, Values: values}}}
}

const (
	// anyBit compares all bits of an argument.
	anyBit = 0
	// socketType leaves SOCK_NONBLOCK and SOCK_CLOEXEC out (SOCK_TYPE_MASK of
	// linux/net.h).
	socketType = 0xf
	// writing are the flags of open(2) that change files.
	writing = unix.O_ACCMODE | unix.O_CREAT | unix.O_TRUNC | unix.O_APPEND
	// newNamespace are the flags of clone(2) that make namespaces.
	newNamespace = unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
		unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
)

var checked = []seccomp.Rule{
	// What a connection has to read (relay, portfwd); the index of a nameserver's
	// zone (dns); a TAP of the caller's gets its offloads back (tap); whether the
	// terminal has sent a signal to the command, too, and giving it the terminal back when
	// both had been stopped (namespace). Not TIOCSTI and the like.
	is(unix.SYS_IOCTL, 1, anyBit, unix.SIOCINQ, unix.SIOCGIFINDEX, unix.TUNSETOFFLOAD, unix.TIOCGPGRP, unix.TIOCSPGRP),
	// Sizes of pipes (relay), descriptors handed to package net (dns), flags. Not
	// F_SETOWN, which sends signals.
	is(unix.SYS_FCNTL, 1, anyBit, unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_SETFD,
		unix.F_DUPFD_CLOEXEC, unix.F_SETPIPE_SZ, unix.F_GETPIPE_SZ),
	// The runtime's heap and stacks. Nothing becomes executable.
	is(unix.SYS_MMAP, 2, unix.PROT_EXEC, 0),
	is(unix.SYS_MPROTECT, 2, unix.PROT_EXEC, 0),
	// resolv.conf (dns).
	is(unix.SYS_OPENAT, 2, writing, unix.O_RDONLY),
	// The files of the control sockets (api). Not directories.
	is(unix.SYS_UNLINKAT, 2, anyBit, 0),
	// The runtime's threads.
	is(unix.SYS_CLONE, 0, unix.CLONE_THREAD|newNamespace, unix.CLONE_THREAD),
	// The runtime names its memory (PR_SET_VMA_ANON_NAME).
	is(unix.SYS_PRCTL, 0, anyBit, unix.PR_SET_VMA),
	// The limit of descriptors (flow, tap).
	is(unix.SYS_PRLIMIT64, 0, anyBit, 0),
	// The slice of the shard's thread.
	is(unix.SYS_SCHED_GETATTR, 0, anyBit, 0),
	is(unix.SYS_SCHED_SETATTR, 0, anyBit, 0),
}

// sockets are those of the internet, and pairs within the program.
func (cfg *Config) sockets() []seccomp.Rule {
	types := []uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM}
	if _, data, err := capabilities(); err == nil && data[0].Permitted&(1<<unix.CAP_NET_RAW) != 0 {
		types = append(types, unix.SOCK_RAW) // echo requests
	}
	rules := []seccomp.Rule{
		{Call: unix.SYS_SOCKET, Args: []seccomp.Arg{
			{Index: 0, Values: []uint32{unix.AF_INET, unix.AF_INET6}},
			{Index: 1, Mask: socketType, Values: types},
			{Index: 2, Values: []uint32{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}},
		}},
		// A stream of DNS queries (dns). A datagram socket could send to any socket of
		// the host.
		{Call: unix.SYS_SOCKETPAIR, Args: []seccomp.Arg{
			{Index: 0, Values: []uint32{unix.AF_UNIX}},
			{Index: 1, Mask: socketType, Values: []uint32{unix.SOCK_STREAM}},
		}},
	}
	if len(cfg.Connect) > 0 { // a proxy's (forwarder); files restrict which
		rules = append(rules, seccomp.Rule{Call: unix.SYS_SOCKET, Args: []seccomp.Arg{
			{Index: 0, Values: []uint32{unix.AF_UNIX}},
			{Index: 1, Mask: socketType, Values: []uint32{unix.SOCK_STREAM}},
		}})
	}
	if cfg.Interfaces {
		rules = append(rules, seccomp.Rule{Call: unix.SYS_SOCKET, Args: []seccomp.Arg{
			{Index: 0, Values: []uint32{unix.AF_NETLINK}},
			{Index: 2, Values: []uint32{unix.NETLINK_ROUTE}},
		}})
	}
	return rules
}

// signals may go to the program itself, since the runtime preempts its threads and ends by
// them, and to the named children.
func (cfg *Config) signals() ([]seccomp.Rule, error) {
	self := uint32(os.Getpid())
	rules := []seccomp.Rule{is(unix.SYS_TGKILL, 0, anyBit, self), is(unix.SYS_KILL, 0, anyBit, self)}
	for _, child := range cfg.Children {
		err := child.WithHandle(func(handle uintptr) {
			rules = append(rules, is(unix.SYS_PIDFD_SEND_SIGNAL, 0, anyBit, uint32(handle)))
		})
		switch {
		case errors.Is(err, os.ErrNoHandle): // no pidfd in this kernel
			rules = append(rules, is(unix.SYS_KILL, 0, anyBit, uint32(child.Pid)))
		case err != nil && !errors.Is(err, os.ErrProcessDone):
			return nil, fmt.Errorf("confine: find child %d: %w", child.Pid, err)
		}
	}
	return rules, nil
}

// plain are permitted whatever their arguments.
var plain = []uintptr{
	// Packets and streams, through descriptors that are open.
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_SPLICE,
	unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG,
	// Sockets.
	unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT4, unix.SYS_SHUTDOWN,
	unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
	// Waiting: the shard, the runtime's poller, the exit descriptor.
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_PPOLL,
	unix.SYS_EVENTFD2, unix.SYS_PIPE2, unix.SYS_CLOSE, unix.SYS_DUP3,
	// resolv.conf and the control sockets' files. These calls reveal only metadata.
	unix.SYS_STATX, unix.SYS_NEWFSTATAT, unix.SYS_FSTAT,
	// The limit of processors, which the runtime reads again and again from a
	// descriptor of its own.
	unix.SYS_PREAD64, unix.SYS_SCHED_GETAFFINITY,
	// The end of children.
	unix.SYS_WAIT4, unix.SYS_WAITID,
	// The runtime: memory, threads, signals, clocks, randomness.
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_SCHED_YIELD, unix.SYS_GETTID,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_GETTIMEOFDAY,
	unix.SYS_GETRANDOM,
	// Who we are: clients of control sockets are compared with it, and the terminal's
	// process group.
	unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETPGID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
}

// hostile calls end the process. No library tries them speculatively, and each leads further:
// to another program, process or namespace, or to the parts of the kernel where most of its
// faults have been.
var hostile = []uintptr{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	unix.SYS_SETNS, unix.SYS_UNSHARE, unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOUNT_SETATTR,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
}
