package namespace

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"epiphyte/internal/subid"
)

// Config is a command and what its namespaces are to hold. All but the command is handed to
// the child.
type Config struct {
	Command []string `json:"-"` // the program and its arguments; looked up in PATH inside
	// Nameservers go to the command's resolv.conf. None: the host's file is
	// left visible, and Search and Options do nothing.
	Nameservers []netip.Addr
	Search      []string // domains, before those of the host's search list
	Options     []string // of resolv.conf(5), such as ndots:0; they override the host's of the same name
	// Interfaces are the names of the TAPs that the child makes and that the
	// caller attaches to between Start and Release.
	Interfaces []string
	Queues     int // of each TAP; 0: one
	// Hostname is the command's, in a UTS namespace of its own; at most 64 bytes.
	// Empty: it has the host's, and the host's namespace.
	Hostname string
	// Isolated has the command in PID and IPC namespaces of its own, too, as process 1,
	// with a /proc of its own.
	Isolated bool
	// User and Group are the ids outside that root inside maps to, for a caller that is root;
	// 0: the caller's own.
	User, Group int
	// IDs are the users and groups inside, unless User is set.
	IDs IDs
	// Login makes a shell the user's login shell, as login(1) does: its name begins with a
	// dash.
	Login bool
	// Speaker begins the message that the command cannot be executed. Empty: epiphyte.
	Speaker string
}

// Process is the command, or the child that will become it.
type Process struct {
	process *os.Process
	control *os.File     // to the child; closed by execve on its side
	tty     *os.File     // the controlling terminal; nil: none
	status  *os.File     // /proc/PID/status, if the command is isolated
	ended   atomic.Int32 // the signal in whose place SIGKILL was sent, 0: none
	started chan error
	done    chan struct{} // closed once the child was waited for
	state   *os.ProcessState
	waitErr error

	// Warnings are single lines about what could not be prepared and is not
	// needed by every command. Set by Start.
	Warnings []string
}

// report is the child's answer.
type report struct {
	Warnings []string `json:"warnings,omitempty"`
	Fault    string   `json:"fault,omitempty"`
}

// release is the message that lets the child go on to the command.
const release = "go"

// maxMessage bounds a message between parent and child, in bytes.
const maxMessage = 4096

// Start makes the namespaces and the child in them, and returns when they are ready and have
// their persistent TAPs. Errors are one line, and name the kernel setting that is in the way,
// if there is one.
func Start(cfg Config) (*Process, error) {
	if len(cfg.Command) == 0 {
		return nil, errors.New("start command: none given")
	}
	ours, theirs, err := controlPair()
	if err != nil {
		return nil, fmt.Errorf("start command: make control socket: %w", err)
	}
	p := &Process{
		control: os.NewFile(uintptr(ours), "control"),
		started: make(chan error, 1),
		done:    make(chan struct{}),
	}
	// Opened now, because a sandbox may forbid it later.
	p.tty, _ = os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0)
	go p.own(cfg.child(theirs), theirs)
	if err := <-p.started; err != nil {
		p.control.Close()
		p.tty.Close()
		return nil, fmt.Errorf("create namespaces: %w%s", err, hint(err, readSetting))
	}
	if cfg.Isolated {
		p.status, _ = os.Open(fmt.Sprintf("/proc/%d/status", p.PID())) // likewise
	}
	err = cfg.IDs.write(p.PID())
	if err == nil {
		if err = p.prepare(cfg); err != nil {
			err = fmt.Errorf("prepare namespaces: %w", err)
		}
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// child describes the child: ourselves, in namespaces of its own, with the
// command behind the control socket's number.
func (cfg Config) child(control int) *exec.Cmd {
	flags := uintptr(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS)
	if cfg.Hostname != "" {
		flags |= syscall.CLONE_NEWUTS
	}
	if cfg.Isolated {
		flags |= syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC
	}
	attr := &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	ids := cfg.IDs
	if len(ids.Users) == 0 {
		ids.Users = mapAround(0, cmp.Or(cfg.User, os.Geteuid()), subid.Block{})
		ids.Groups = mapAround(0, cmp.Or(cfg.Group, os.Getegid()), subid.Block{})
	}
	ids.prepare(attr)
	if cfg.User != 0 {
		attr.GidMappingsEnableSetgroups, attr.Credential = true, &syscall.Credential{}
	}
	return &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        append([]string{childName, strconv.Itoa(control)}, cfg.Command...),
		Stdin:       os.Stdin,
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		SysProcAttr: attr,
	}
}

// own starts the child and waits for it on one thread: the child's death signal comes when
// that thread ends.
func (p *Process) own(cmd *exec.Cmd, theirs int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	unix.Close(theirs)
	if err != nil {
		close(p.done)
		p.started <- startCause(err)
		return
	}
	p.process = cmd.Process
	p.started <- nil
	p.waitErr = cmd.Wait()
	p.state = cmd.ProcessState
	close(p.done)
}

// startCause strips our own path from the error.
func startCause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// prepare tells the child what to prepare and waits for its report.
func (p *Process) prepare(cfg Config) error {
	msg, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	if len(msg) > maxMessage {
		return fmt.Errorf("tell child: name servers, domains and interfaces take %d bytes, and may take %d", len(msg), maxMessage)
	}
	if _, err := p.control.Write(msg); err != nil {
		return fmt.Errorf("tell child: %w", err)
	}
	buf := make([]byte, maxMessage)
	n, err := p.control.Read(buf)
	if err == io.EOF {
		<-p.done
		return fmt.Errorf("the child ended early: %v", p.state)
	}
	if err != nil {
		return fmt.Errorf("hear from child: %w", err)
	}
	var rep report
	if err := json.Unmarshal(buf[:n], &rep); err != nil {
		return fmt.Errorf("read child's report: %w", err)
	}
	if rep.Fault != "" {
		return errors.New(rep.Fault)
	}
	p.Warnings = rep.Warnings
	return nil
}

// PID is the process whose namespaces the command has.
func (p *Process) PID() int { return p.process.Pid }

// Child is the process to signal.
func (p *Process) Child() *os.Process { return p.process }

// Release lets the command run.
func (p *Process) Release() error {
	if _, err := p.control.Write([]byte(release)); err != nil {
		return fmt.Errorf("start command: %w", err)
	}
	return nil
}

// Done is closed when the command has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status is the command's exit status as a shell counts it: its own code, or
// 128 plus the number of the signal that ended it. It waits for the end.
func (p *Process) Status() (int, error) {
	<-p.done
	if p.state == nil {
		return 0, fmt.Errorf("wait for command: %w", p.waitErr)
	}
	ws := p.state.Sys().(syscall.WaitStatus)
	if sig := p.ended.Load(); sig != 0 && ws.Signaled() {
		return 128 + int(sig), nil
	}
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// Signal sends sig to the command, unless it has ended.
func (p *Process) Signal(sig syscall.Signal) {
	p.process.Signal(sig) // fails only because the command has ended
}

// Close ends the command if it still runs, and waits for it.
func (p *Process) Close() error {
	p.Signal(syscall.SIGKILL)
	<-p.done
	p.tty.Close()
	p.status.Close()
	return p.control.Close()
}

// controlPair makes the connection between parent and child. SOCK_SEQPACKET keeps messages
// whole and shows the death of either side as end of file. The child inherits its end under
// the same number, so that descriptors which the caller passed to the command keep theirs.
func controlPair() (ours, theirs int, err error) {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, -1, err
	}
	for _, set := range [...]struct{ cmd, arg int }{{unix.F_SETFL, 0}, {unix.F_SETFD, 0}} {
		if _, err = unix.FcntlInt(uintptr(sp[1]), set.cmd, set.arg); err != nil {
			unix.Close(sp[0])
			unix.Close(sp[1])
			return -1, -1, err
		}
	}
	return sp[0], sp[1], nil
}
