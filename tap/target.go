package tap

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// setns is one call of setns(2).
type setns struct {
	fd   int
	kind int // CLONE_NEWUSER, CLONE_NEWNET or, for a program, one of entered
}

func (s setns) String() string {
	name := "CLONE_NEWNET"
	switch s.kind {
	case unix.CLONE_NEWUSER:
		name = "CLONE_NEWUSER"
	case unix.CLONE_NEWNS:
		name = "CLONE_NEWNS"
	case unix.CLONE_NEWUTS:
		name = "CLONE_NEWUTS"
	case unix.CLONE_NEWIPC:
		name = "CLONE_NEWIPC"
	}
	return "setns(" + name + ")"
}

// maxSteps is how many calls of setns a child makes at most.
const maxSteps = 5

// join is how the child gets to the target: calls of setns in order, at most two, or
// maxSteps with those of entered. Their descriptors stay open until the child has been
// reaped.
type join struct {
	steps  []setns
	userns int   // the user namespace joined, 0 if none; for explain
	netns  int   // the network namespace, also where it is not joined
	fds    []int // to close
}

func (j *join) close() {
	for _, fd := range j.fds {
		unix.Close(fd)
	}
	j.fds = nil
}

// letGo closes the network namespace once the child has a copy: a mount at its path could
// not be unmounted otherwise.
func (j *join) letGo() {
	if i := slices.Index(j.fds, j.netns); i >= 0 {
		unix.Close(j.netns)
		j.fds = slices.Delete(j.fds, i, i+1)
	}
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
	op := "open " + name + " namespace " + path
	fd, err := j.open(path)
	if err != nil {
		return -1, fail(op, err, hintPath(err))
	}
	if got, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || got != kind {
		return -1, fail(op, errors.New("this is not a "+name+" namespace"), "")
	}
	return fd, nil
}

// resolve opens what the child needs and decides what it joins.
func resolve(t Target) (_ *join, err error) {
	if t.FD > 0 || t.PID <= 0 && t.NetNS == "" {
		return nil, errors.New("no target namespace given")
	}
	j := new(join)
	j.netns, err = j.network(t)
	if err == nil {
		err = j.decide(t, j.netns)
	}
	if err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// network opens the target's network namespace.
func (j *join) network(t Target) (netns int, err error) {
	if t.PID <= 0 {
		return j.namespace(t.NetNS, unix.CLONE_NEWNET, "network")
	}
	pidfd, err := unix.PidfdOpen(t.PID, 0)
	if err != nil {
		return -1, fail(fmt.Sprintf("find process %d", t.PID), err, hintProcess(t.PID, err))
	}
	defer unix.Close(pidfd)
	netns, err = j.open(fmt.Sprintf("/proc/%d/ns/net", t.PID))
	// The file was found by PID. Unless the process still exists, it may be that of
	// another process with the same PID.
	if err == nil && unix.PidfdSendSignal(pidfd, 0, nil, 0) == unix.ESRCH {
		err = unix.ESRCH
	}
	if err != nil {
		return -1, fail(fmt.Sprintf("open the network namespace of process %d", t.PID), err, hintProcess(t.PID, err))
	}
	return netns, nil
}

// decide says which namespaces are joined: the network namespace, unless it is
// ours, and before it the user namespace that owns it, unless that is ours.
func (j *join) decide(t Target, netns int) (err error) {
	if t.PID <= 0 && t.UserNS != "" {
		if j.userns, err = j.namespace(t.UserNS, unix.CLONE_NEWUSER, "user"); err != nil {
			return err
		}
		if ours, err := isOurs(j.userns, "user"); err != nil || !ours {
			j.steps = []setns{{j.userns, unix.CLONE_NEWUSER}, {netns, unix.CLONE_NEWNET}}
			return err
		}
	}
	if ours, err := isOurs(netns, "net"); err != nil || ours {
		return err
	}
	if j.userns, err = j.owner(netns, t); err != nil {
		return err
	}
	ours, err := isOurs(j.userns, "user")
	if !ours {
		j.steps = append(j.steps, setns{j.userns, unix.CLONE_NEWUSER})
	}
	j.steps = append(j.steps, setns{netns, unix.CLONE_NEWNET})
	return err
}

// owner asks the kernel which user namespace owns a network namespace.
func (j *join) owner(netns int, t Target) (userns int, err error) {
	userns, err = unix.IoctlRetInt(netns, unix.NS_GET_USERNS)
	if err != nil {
		hint := ""
		if err == unix.EPERM {
			hint = "its user namespace is outside of ours: run in a user namespace that is the same or an ancestor"
		}
		return -1, fail("ask who owns the network namespace of "+t.String(), err, hint)
	}
	return j.keep(userns), nil // close-on-exec, ioctl_ns(2)
}

// isOurs reports whether we are in that namespace; name is its kind's in /proc/self/ns.
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

// explain is the remedy for a refusal of setns.
func (j *join) explain(s setns, errno unix.Errno) string {
	if errno != unix.EPERM {
		return ""
	}
	if s.kind == unix.CLONE_NEWNET {
		return "joining a network namespace needs CAP_SYS_ADMIN in the user namespace that owns it"
	}
	uid, err := unix.IoctlGetUint32(j.userns, unix.NS_GET_OWNER_UID)
	if err == nil && int(uid) != os.Geteuid() {
		return fmt.Sprintf("the user namespace belongs to user %d and we are user %d: run as its owner", uid, os.Geteuid())
	}
	return "the user namespace may not be joined from here"
}
