package sandbox

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// User is a user to become, without supplementary groups.
type User struct{ UID, GID int }

// become changes all threads' user. Capabilities stay permitted until dropCapabilities.
func (u *User) become() error {
	if _, _, errno := psx.Syscall3(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); errno != 0 {
		return fmt.Errorf("keep capabilities: %w", errno)
	}
	for _, step := range [...]struct {
		name string
		err  func() error
	}{
		{"leave groups", func() error { return syscall.Setgroups(nil) }},
		{fmt.Sprintf("become group %d", u.GID), func() error { return syscall.Setresgid(u.GID, u.GID, u.GID) }},
		{fmt.Sprintf("become user %d", u.UID), func() error { return syscall.Setresuid(u.UID, u.UID, u.UID) }},
	} {
		if err := step.err(); err != nil {
			return fmt.Errorf("%s: %w (it takes root, and an id that this user namespace has)", step.name, err)
		}
	}
	return nil
}
