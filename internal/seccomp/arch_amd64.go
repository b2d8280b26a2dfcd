package seccomp

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// foreign is the least number that is a call of another convention: x32 sets this
// bit (arch/x86/include/uapi/asm/unistd.h, __X32_SYSCALL_BIT).
const foreign = 0x40000000
