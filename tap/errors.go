package tap

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpError is a step that failed. Its text is one line.
type OpError struct {
	Op   string // what was attempted
	Err  error  // the errno where there is one
	Hint string // what the user can do about it; may be empty
}

func (e *OpError) Error() string {
	text := e.Op + ": " + e.Err.Error()
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// Unwrap returns Err.
func (e *OpError) Unwrap() error { return e.Err }

// fail makes an OpError. It keeps only the errno of an error that wraps one. A limit of
// open files has one remedy, whatever failed.
func fail(op string, err error, hint string) *OpError {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		err = errno
	}
	if err == unix.EMFILE {
		hint = "raise the limit of open files, ulimit -n"
	}
	return &OpError{op, err, hint}
}

func hintProcess(pid int, err error) string {
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOENT):
		return "it has ended, or it lives in another PID namespace"
	case errors.Is(err, unix.EINVAL):
		return "give the PID of a process, not of one of its threads"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		var st unix.Stat_t
		// A process that is not dumpable shows as root's.
		if unix.Stat(fmt.Sprintf("/proc/%d", pid), &st) == nil && int(st.Uid) != os.Geteuid() {
			return fmt.Sprintf("the process belongs to user %d and we are user %d: run as its user", st.Uid, os.Geteuid())
		}
		return "the process may not be inspected: it has more privileges than we have, or is not dumpable"
	}
	return ""
}

func hintPath(err error) string {
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "run as the user who owns the namespace"
	case errors.Is(err, unix.ENOENT):
		return "the namespace file must exist before we start"
	}
	return ""
}

// hintNoTAP is for the name of an interface of another kind.
const hintNoTAP = "this interface is not a TAP: choose another name"

func hintTunDevice(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT):
		return "load the tun module, or give this container the device: --device /dev/net/tun"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return "load the tun module as root: modprobe tun"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "let users open it, as root: chmod 0666 /dev/net/tun"
	}
	return ""
}

func hintAttach(name string, err error) string {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Sprintf("another program is attached to %s: stop it, or choose another name", name)
	case errors.Is(err, unix.EPERM):
		return "making a TAP needs CAP_NET_ADMIN in the user namespace that owns the network namespace: " +
			"name a process in namespaces of its own, e.g. of unshare -Urn"
	case errors.Is(err, unix.EINVAL):
		return fmt.Sprintf("%q is not a valid interface name, or names an interface that is not a TAP", name)
	}
	return ""
}
