package cli

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// errnoText is what strerror(3) of the GNU C library says of the errno that
// err wraps, where the contract quotes it, and err's own text otherwise.
func errnoText(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	switch errno {
	case unix.ENOENT:
		return "No such file or directory"
	case unix.EACCES:
		return "Permission denied"
	case unix.ENOTDIR:
		return "Not a directory"
	}
	return fmt.Sprintf("%v", errno)
}
