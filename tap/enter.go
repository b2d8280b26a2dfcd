package tap

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Program is how Enter executes this program.
type Program struct {
	Args []string // the first one selects the role
	Env  []string // KEY=VALUE
	Dir  string   // the working directory, where there is one of this name in the target
}

// entered are the further kinds of namespaces that a program joins, where those of the
// target's process are not ours already.
var entered = [...]struct {
	kind int
	name string
}{{unix.CLONE_NEWUTS, "uts"}, {unix.CLONE_NEWIPC, "ipc"}, {unix.CLONE_NEWNS, "mnt"}}

// Enter starts this program anew in the namespaces of a target: the user and network
// namespace, and if the target is a process, those of mounts, host name and IPC. It is
// killed when the caller's thread, which must be locked, ends.
func Enter(t Target, what Program) (*os.Process, error) {
	j, err := resolve(t)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err := j.others(t); err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	defer unix.Close(ours)
	p := newProgram(j, theirs)
	p.enter, err = newEnterProgram(j, what)
	if err != nil {
		unix.Close(theirs)
		return nil, err
	}
	pid, errno := p.fork()
	unix.Close(theirs)
	if errno != 0 {
		return nil, fail("fork", errno, hintFork(errno))
	}
	process, _ := os.FindProcess(pid) // it always succeeds on Unix
	if msg, _, err := receiveMessage(ours, reportLen, 0, 0); err != nil || len(msg) > 0 {
		process.Wait()
		if err == nil {
			err = reported(msg, j)
		}
		return nil, err
	}
	return process, nil // execve has closed the socket
}

// others adds the namespaces of entered to those that are joined.
func (j *join) others(t Target) error {
	if t.PID <= 0 {
		return nil
	}
	for _, e := range entered {
		path := fmt.Sprintf("/proc/%d/ns/%s", t.PID, e.name)
		fd, err := j.open(path)
		if err != nil {
			return fail("open "+path, err, hintProcess(t.PID, err))
		}
		if ours, err := isOurs(fd, e.name); err != nil {
			return err
		} else if !ours {
			j.steps = append(j.steps, setns{fd, e.kind})
		}
	}
	return nil
}

// enterProgram is a child that executes this program.
type enterProgram struct {
	exe       int // this program's file
	dir       *byte
	argv, env []*byte // nil-terminated
	empty     byte
}

func newEnterProgram(j *join, what Program) (*enterProgram, error) {
	exe, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fail("open /proc/self/exe", err, "mount a /proc")
	}
	e := &enterProgram{exe: j.keep(exe)}
	if e.dir, err = unix.BytePtrFromString(what.Dir); err == nil {
		e.argv, err = syscall.SlicePtrFromStrings(what.Args)
	}
	if err == nil {
		e.env, err = syscall.SlicePtrFromStrings(what.Env)
	}
	if err != nil {
		return nil, errors.New("an argument or a variable of the environment has a zero byte in it")
	}
	return e, nil
}

// execute becomes the program. It is dumpable again then, which is right, since nothing of
// our memory is left.
//
//go:norace
//go:nosplit
func (p *program) execute() {
	e := p.enter
	syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(e.dir)), 0, 0)
	_, _, errno := syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(e.exe), uintptr(unsafe.Pointer(&e.empty)),
		uintptr(unsafe.Pointer(&e.argv[0])), uintptr(unsafe.Pointer(&e.env[0])), unix.AT_EMPTY_PATH, 0)
	p.fail(stageExecute, 0, errno)
}
