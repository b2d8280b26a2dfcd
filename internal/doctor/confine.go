package doctor

import (
	"fmt"
	"os"
	"strings"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// landlock says whether the program can give up files.
func landlock() Finding {
	const thing = "Landlock"
	version, err := llsys.LandlockGetABIVersion()
	if err != nil || version < 1 {
		remedy := ""
		if b, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil {
			remedy = "grubby --update-kernel=ALL --args=lsm=landlock," + strings.TrimSpace(string(b))
		}
		return limited(thing, "this kernel has none, or it is switched off: the program is not kept from files, and --enable-sandbox is refused (Linux 5.13, CONFIG_SECURITY_LANDLOCK, lsm=landlock at boot)", remedy, by(remedy))
	}
	return ok(thing, fmt.Sprintf("version %d", version))
}

// seccomp says whether the program can give up system calls.
func seccomp() Finding {
	const thing = "seccomp"
	if b, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail"); err == nil && strings.Contains(string(b), "errno") {
		return ok(thing, "filters of system calls")
	}
	return limited(thing, "this kernel has no filters of system calls (CONFIG_SECCOMP_FILTER): --enable-seccomp is refused", "", "")
}
