package tap

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Open makes or attaches to the device that cfg describes and returns it ready
// for use. It takes a few milliseconds, up to about a second where the device
// is busy. When ctx ends first, its error is returned and nothing is left.
//
// Errors are one line with cause and remedy and wrap the errno where there is
// one: EPERM and EACCES for a lack of permission, ESRCH for a process that does
// not exist, EBUSY for a device in use, ENOENT for a missing path.
func Open(ctx context.Context, cfg Config) (*Device, error) {
	p, err := Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return p.Wait()
}

// Pending is a device in the making.
type Pending struct {
	cancel context.CancelFunc
	done   chan struct{}
	dev    *Device // set before done is closed
	err    error   // likewise
}

// Start begins to open the device and returns at once, so that the caller can
// build the rest meanwhile. A target that does not exist or may not be
// inspected is an error here already; all else is reported by Wait. Exactly one
// of Wait and Close must be called afterwards.
func Start(ctx context.Context, cfg Config) (*Pending, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("open TAP: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open TAP: %w", err)
	}
	p := &Pending{done: make(chan struct{}), cancel: func() {}}
	if cfg.Target.FD > 0 {
		defer close(p.done)
		var err error
		if p.dev, err = adopt(cfg); err != nil {
			return nil, fmt.Errorf("open TAP: %w", err)
		}
		p.dev.log(cfg)
		return p, nil
	}
	j, err := resolve(cfg.Target)
	if err != nil {
		return nil, fmt.Errorf("open TAP: %w", err)
	}
	ctx, p.cancel = context.WithCancel(ctx)
	go p.run(ctx, cfg, j)
	return p, nil
}

// Wait returns the device, or the error that prevented it. The device is the
// caller's to close.
func (p *Pending) Wait() (*Device, error) {
	<-p.done
	p.cancel()
	return p.dev, p.err
}

// Close gives the device up, whether it is ready or not.
func (p *Pending) Close() error {
	p.cancel()
	<-p.done
	if p.dev != nil {
		return p.dev.Close()
	}
	return nil
}

func (p *Pending) run(ctx context.Context, cfg Config, j *join) {
	defer close(p.done)
	defer j.close()
	var dev *Device
	rep, fds, err := delegate(ctx, j, request{Name: cfg.Name, Configure: cfg.Configure, NoOffload: cfg.NoOffload})
	if err == nil && len(fds) != 1 {
		closeAll(fds)
		err = errNoDescriptor
	}
	if err == nil {
		dev = newDevice(fds[0], rep)
	}
	if ctx.Err() != nil {
		if dev != nil {
			dev.Close()
		}
		p.err = fmt.Errorf("open TAP: %w", context.Cause(ctx))
		return
	}
	if err != nil {
		p.err = fmt.Errorf("open TAP: %w", err)
		return
	}
	dev.log(cfg)
	p.dev = dev
}

// delegate has a child do the work inside the target, and reaps it. What it made
// is the caller's to close.
func delegate(ctx context.Context, j *join, r request) (*reply, []int, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	defer unix.Close(ours)

	req, err := json.Marshal(r)
	if err == nil {
		_, err = unix.Write(ours, req)
	}
	if err != nil {
		unix.Close(theirs)
		return nil, nil, fmt.Errorf("hand request to child: %w", err)
	}
	l, err := newLaunch(j, theirs, []string{childName}, childEnv())
	if err != nil {
		unix.Close(theirs)
		return nil, nil, err
	}
	l.ambient = r.capability()

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, errno := l.start()
	unix.Close(theirs)
	if errno != 0 {
		return nil, nil, fail("fork", errno, hintFork(errno))
	}
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		unix.Kill(pid, unix.SIGKILL)
		close(killed)
	})
	rep, fds, err := receive(ours, j)
	// The child may be reaped only when nobody is about to kill it by number.
	if !stop() {
		<-killed
	}
	status := reap(pid)
	if err != nil {
		if errors.Is(err, errSilent) {
			err = fmt.Errorf("%w: %s", err, status)
		}
		return nil, nil, err
	}
	return rep, fds, nil
}

func hintFork(errno unix.Errno) string {
	if errno == unix.EAGAIN {
		return "the limit of processes is reached: ulimit -u, pids.max"
	}
	return ""
}

// socketPair makes the connection to the child. SOCK_SEQPACKET keeps messages
// whole and shows the death of the peer as end of file.
func socketPair() (ours, theirs int, err error) {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, err
	}
	theirs, err = unix.FcntlInt(uintptr(sp[1]), unix.F_DUPFD_CLOEXEC, aboveChild)
	unix.Close(sp[1])
	if err != nil {
		unix.Close(sp[0])
		return -1, -1, err
	}
	return sp[0], theirs, nil
}

// errSilent means that the child went without a word.
var errSilent = errors.New("the child in the namespace ended without an answer")

// errNoDescriptor means that what the child made did not arrive.
var errNoDescriptor = errors.New("receive from child: no descriptor came, the limit of open files may be reached")

// receive waits for the child's answer. There are descriptors only without
// error.
func receive(sock int, j *join) (*reply, []int, error) {
	buf := make([]byte, maxMessage)
	oob := make([]byte, unix.CmsgSpace(4*maxSockets))
	var n, oobn int
	var err error
	for {
		n, oobn, _, _, err = unix.Recvmsg(sock, buf, oob, unix.MSG_CMSG_CLOEXEC)
		// ECONNRESET: the child went before it read the request. That is
		// reported once and first; its last words are still in the queue.
		if err != unix.EINTR && err != unix.ECONNRESET {
			break
		}
	}
	if err == nil && n == 0 {
		return nil, nil, errSilent
	}
	if err != nil {
		return nil, nil, fmt.Errorf("receive from child: %w", err)
	}
	fds := descriptors(oob[:oobn])
	rep, err := decode(buf[:n], j)
	if err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	return rep, fds, nil
}

// descriptors are those of a message (SCM_RIGHTS).
func descriptors(oob []byte) (fds []int) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// decode reads what the child sent: the report of a failure before execve, or
// the answer of the role.
func decode(msg []byte, j *join) (*reply, error) {
	if len(msg) == reportLen && msg[0] != '{' {
		errno := unix.Errno(binary.LittleEndian.Uint16(msg[4:]))
		switch msg[0] {
		case stageSetns:
			if i := int(msg[1]); i < len(j.steps) {
				return nil, fail(j.steps[i].String(), errno, j.explain(j.steps[i], errno))
			}
		case stageExec:
			hint := "this program must be able to run itself again"
			if errno == unix.ENOENT {
				hint = "mount /proc: this program runs itself again inside the namespace"
			}
			return nil, fail("execve /proc/self/exe", errno, hint)
		}
		return nil, fail("prepare child", errno, "")
	}
	rep := new(reply)
	if err := json.Unmarshal(msg, rep); err != nil {
		return nil, fmt.Errorf("decode answer of child: %w", err)
	}
	if rep.Fault != nil {
		return nil, rep.Fault
	}
	return rep, nil
}

// reap waits for the child's end and says how it ended.
func reap(pid int) string {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("wait4", err).Error()
		case ws.Signaled():
			return "killed by signal " + ws.Signal().String()
		default:
			return fmt.Sprintf("exit status %d", ws.ExitStatus())
		}
	}
}
