package namespace

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// mountsApart keeps mounts made here from the host; the host's may still show here.
func mountsApart() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// mountProc shows the processes of this PID namespace. The kernel refuses it where parts of
// the present /proc are hidden, as in most containers (mount_too_revealing).
func mountProc() error {
	if err := mountsApart(); err != nil {
		return err
	}
	return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}
