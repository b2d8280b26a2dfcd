package tap

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// setns is one call of setns(2).
type setns struct {
	fd    int
	flags int
}

func (s setns) String() string {
	var names []string
	for _, f := range []struct {
		bit  int
		name string
	}{{unix.CLONE_NEWUSER, "CLONE_NEWUSER"}, {unix.CLONE_NEWNET, "CLONE_NEWNET"}} {
		if s.flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return "setns(" + strings.Join(names, "|") + ")"
}

// join is how the child gets to the target: at most two calls of setns, in
// order, on descriptors that stay open until the child has been reaped.
type join struct {
	steps  []setns
	userns int   // the user namespace joined, 0 if none; for explain
	fds    []int // to close
}

func (j *join) close() {
	for _, fd := range j.fds {
		unix.Close(fd)
	}
	j.fds = nil
}

func (j *join) keep(fd int) int {
	j.fds = append(j.fds, fd)
	return fd
}

func (j *join) open(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, err
		}
		return j.keep(fd), nil
	}
}

// namespace opens path and insists that it is a namespace of the given kind.
func (j *join) namespace(path string, kind int, name string) (int, error) {
	fd, err := j.open(path)
	if err != nil {
		return -1, fail("open "+name+" namespace "+path, err, hintPath(err))
	}
	if got, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || got != kind {
		return -1, &fault{Op: "open " + name + " namespace " + path, Text: "this is no " + name + " namespace"}
	}
	return fd, nil
}

// resolve opens what the child needs and decides what it joins.
func resolve(t Target) (*join, error) {
	j := new(join)
	var err error
	if t.PID > 0 {
		err = j.process(t.PID)
	} else {
		err = j.path(t.NetNS, t.UserNS)
	}
	if err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

func (j *join) process(pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fail(fmt.Sprintf("find process %d", pid), err, hintProcess(pid, err))
	}
	j.keep(pidfd)
	op := fmt.Sprintf("open the namespaces of process %d", pid)
	dir := fmt.Sprintf("/proc/%d/ns/", pid)
	netns, err := j.open(dir + "net")
	if err != nil {
		return fail(op, err, hintProcess(pid, err))
	}
	userns, err := j.open(dir + "user")
	if err != nil {
		return fail(op, err, hintProcess(pid, err))
	}
	// The files above were found by number. Unless the process still exists,
	// they may be those of a successor.
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err == unix.ESRCH {
		return fail(op, err, hintProcess(pid, err))
	}
	own, owner, err := j.owner(netns, fmt.Sprintf("process %d", pid))
	if err != nil || own {
		return err
	}
	if owner < 0 {
		j.steps = []setns{{pidfd, unix.CLONE_NEWNET}}
	} else if same, err := sameFile(owner, userns); err != nil {
		return fail(op, err, "")
	} else if same {
		j.steps = []setns{{pidfd, unix.CLONE_NEWUSER | unix.CLONE_NEWNET}}
	} else {
		j.steps = []setns{{owner, unix.CLONE_NEWUSER}, {netns, unix.CLONE_NEWNET}}
	}
	return nil
}

func (j *join) path(netPath, userPath string) error {
	netns, err := j.namespace(netPath, unix.CLONE_NEWNET, "network")
	if err != nil {
		return err
	}
	if userPath != "" {
		userns, err := j.namespace(userPath, unix.CLONE_NEWUSER, "user")
		if err != nil {
			return err
		}
		ours, err := isOurs(userns, "user")
		if err != nil {
			return err
		}
		if !ours {
			j.userns = userns
			j.steps = []setns{{userns, unix.CLONE_NEWUSER}, {netns, unix.CLONE_NEWNET}}
			return nil
		}
	}
	own, owner, err := j.owner(netns, netPath)
	if err != nil || own {
		return err
	}
	if owner < 0 {
		j.steps = []setns{{netns, unix.CLONE_NEWNET}}
	} else {
		j.steps = []setns{{owner, unix.CLONE_NEWUSER}, {netns, unix.CLONE_NEWNET}}
	}
	return nil
}

// owner asks the kernel which user namespace owns netns. own is true when netns
// is our own network namespace; the descriptor is -1 when the owner is the user
// namespace we are in.
func (j *join) owner(netns int, what string) (own bool, userns int, err error) {
	if own, err = isOurs(netns, "net"); own || err != nil {
		return own, -1, err
	}
	userns, err = unix.IoctlRetInt(netns, unix.NS_GET_USERNS)
	if err == unix.EPERM {
		return false, -1, fail("ask who owns the network namespace of "+what, err,
			"its user namespace is outside of ours: run in a user namespace that is the same or an ancestor")
	}
	if err != nil {
		return false, -1, fail("ask who owns the network namespace of "+what, err, "")
	}
	j.keep(userns) // close-on-exec, ioctl_ns(2)
	j.userns = userns
	ours, err := isOurs(userns, "user")
	if err != nil {
		return false, -1, err
	}
	if ours {
		userns = -1
	}
	return false, userns, nil
}

// isOurs reports whether a namespace is the one of that name we are in.
func isOurs(fd int, name string) (bool, error) {
	var ours, st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/"+name, &ours); err != nil {
		return false, fail("read /proc/self/ns/"+name, err, "mount a /proc for our PID namespace")
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return false, fail("compare namespaces", err, "")
	}
	return ours.Dev == st.Dev && ours.Ino == st.Ino, nil
}

func sameFile(a, b int) (bool, error) {
	var x, y unix.Stat_t
	if err := unix.Fstat(a, &x); err != nil {
		return false, err
	}
	if err := unix.Fstat(b, &y); err != nil {
		return false, err
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}

// explain says why setns was refused and what helps.
func (j *join) explain(s setns, errno unix.Errno) string {
	switch errno {
	case unix.EPERM:
		if s.flags&unix.CLONE_NEWUSER == 0 {
			return "joining a network namespace needs CAP_SYS_ADMIN in the user namespace that owns it"
		}
		uid, err := unix.IoctlGetUint32(j.userns, unix.NS_GET_OWNER_UID)
		if err == nil && int(uid) != os.Geteuid() {
			return fmt.Sprintf("the user namespace belongs to user %d and we are user %d: run as its owner", uid, os.Geteuid())
		}
		return "the user namespace may not be joined from here"
	case unix.ESRCH:
		return "the process has ended"
	case unix.EINVAL:
		return "joining by process needs Linux 5.8"
	}
	return ""
}
