package namespace

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// The settings that keep a plain user from making namespaces: Debian's and
// Ubuntu's own, and the kernel's limits.
const (
	settingClone    = "/proc/sys/kernel/unprivileged_userns_clone"
	settingAppArmor = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
	settingUser     = "/proc/sys/user/max_user_namespaces"
	settingNet      = "/proc/sys/user/max_net_namespaces"
	settingMount    = "/proc/sys/user/max_mnt_namespaces"
	settingUTS      = "/proc/sys/user/max_uts_namespaces"
)

// readSetting is the value of a sysctl file, empty when there is none.
func readSetting(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// hint returns what to do about err, from a step that needs a user namespace, for the end of
// its message. read returns the value of a setting.
func hint(err error, read func(path string) string) string {
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		switch {
		case read(settingClone) == "0":
			return "; user namespaces are off for users here: sysctl kernel.unprivileged_userns_clone=1"
		case read(settingAppArmor) == "1":
			return "; AppArmor restricts user namespaces here: give this program a profile that allows them, or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
		}
		return "; user namespaces are not permitted here: a container's seccomp profile or a chroot may forbid them"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EUSERS):
		for _, limit := range [...]string{settingUser, settingNet, settingMount, settingUTS} {
			if v := read(limit); v == "0" {
				return "; namespaces are switched off here: sysctl " + sysctlName(limit) + " is 0"
			}
		}
		return "; the limit of namespaces is reached: raise sysctl user.max_user_namespaces, or user.max_net_namespaces, user.max_mnt_namespaces or user.max_uts_namespaces, or nest less"
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSYS):
		return "; this kernel lacks user, network or mount namespaces (CONFIG_USER_NS, CONFIG_NET_NS)"
	}
	return ""
}

func sysctlName(path string) string {
	return strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".")
}

// errnoOf returns the errno in err, whose text has no path, or err itself.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
