package tap

import (
	"golang.org/x/sys/unix"

	"epiphyte/internal/seccomp"
)

// agentCalls is the filter of an agent: the calls of handOut and nothing else. Any other
// call ends the agent, as none of its code makes one; published ports go by the TAP then.
func agentCalls() ([]unix.SockFilter, error) {
	is := func(call uintptr, args ...seccomp.Arg) seccomp.Rule { return seccomp.Rule{Call: call, Args: args} }
	first := func(v ...uint32) seccomp.Arg { return seccomp.Arg{Index: 0, Values: v} }
	return seccomp.Filter{Allow: []seccomp.Rule{
		is(unix.SYS_RECVMSG, first(agentSocket)),
		is(unix.SYS_SENDMSG, first(agentSocket)),
		is(unix.SYS_SENDTO, first(rulesSocket, handedSocket)),
		is(unix.SYS_RECVFROM, first(rulesSocket)),
		is(unix.SYS_SOCKET,
			seccomp.Arg{Index: 0, Values: []uint32{unix.AF_INET, unix.AF_INET6}},
			seccomp.Arg{Index: 1, Values: []uint32{
				unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC,
			}},
			seccomp.Arg{Index: 2, Values: []uint32{unix.IPPROTO_TCP, unix.IPPROTO_UDP}}),
		is(unix.SYS_SETSOCKOPT),
		is(unix.SYS_CLOSE),
		is(unix.SYS_EXIT_GROUP),
		is(unix.SYS_RESTART_SYSCALL), // after a stop by the guest's root
	}}.Build()
}
