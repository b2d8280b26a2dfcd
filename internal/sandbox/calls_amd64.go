package sandbox

import "golang.org/x/sys/unix"

// legacy are calls that newer architectures do not have. The runtime's threads set their own
// storage (ARCH_SET_FS), which is harmless.
var legacy = []uintptr{
	unix.SYS_POLL, unix.SYS_EPOLL_WAIT, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_GETPGRP, unix.SYS_TIME,
	unix.SYS_ARCH_PRCTL,
}
