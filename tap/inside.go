package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// opened is what became of one opening: a descriptor, which is the receiver's
// to close, or the reason why there is none.
type opened struct {
	fd  int // -1 with an error
	err error
}

func closeOpened(all []opened) {
	for _, o := range all {
		if o.fd >= 0 {
			unix.Close(o.fd)
		}
	}
}

// insider is a child that opens files and sockets in a target's namespaces.
type insider struct {
	j     *join
	count int
	pid   int
	sock  int
	stop  func() bool   // the killing at the end of the context
	kill  chan struct{} // closed when it was killed
}

// openInside starts a child that makes the openings. end must be called, by the
// same goroutine.
func openInside(ctx context.Context, j *join, openings ...opening) (*insider, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	l := newLaunch(j, theirs)
	l.opener = newOpenChild(openings)
	runtime.LockOSThread()
	pid, errno := l.start()
	unix.Close(theirs)
	if errno != 0 {
		runtime.UnlockOSThread()
		unix.Close(ours)
		return nil, fail("fork", errno, hintFork(errno))
	}
	c := &insider{j: j, count: len(openings), pid: pid, sock: ours, kill: make(chan struct{})}
	c.stop = context.AfterFunc(ctx, func() {
		unix.Kill(pid, unix.SIGKILL)
		close(c.kill)
	})
	return c, nil
}

// opened waits for the child's answer: one outcome for each opening, in the
// order asked for.
func (c *insider) opened() ([]opened, error) { return receive(c.sock, c.j, c.count) }

// end reaps the child. The kernel takes a tenth of a millisecond and more to
// free what it shared with us, on another processor: end is better deferred.
func (c *insider) end() {
	// It may be reaped only when nobody is about to kill it by number.
	if !c.stop() {
		<-c.kill
	}
	reap(c.pid)
	runtime.UnlockOSThread()
	unix.Close(c.sock)
}

func hintFork(errno unix.Errno) string {
	if errno == unix.EAGAIN {
		return "the limit of processes is reached: ulimit -u, pids.max"
	}
	return ""
}

// socketPair makes the connection to a child. SOCK_SEQPACKET keeps messages
// whole and shows the death of the peer as end of file.
func socketPair() (ours, theirs int, err error) {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	return sp[0], sp[1], err
}

// errSilent means that the child went without a word.
var errSilent = errors.New("the child in the namespace ended without an answer")

// receive waits for the child's answer to that many openings.
func receive(sock int, j *join, count int) ([]opened, error) {
	msg, fds, err := receiveMessage(sock, answerLen, maxOpenings, 0)
	if err != nil {
		return nil, fmt.Errorf("receive from child: %w", err)
	}
	all, err := decode(msg, j, count, fds)
	if err != nil {
		closeAll(fds)
	}
	return all, err
}

// receiveMessage takes a message of at most size bytes, the rest of which is
// lost, and the descriptors that come with it.
func receiveMessage(sock, size, maxFDs, flags int) (msg []byte, fds []int, err error) {
	msg = make([]byte, size)
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(sock, msg, oob, unix.MSG_CMSG_CLOEXEC|flags)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, nil, err
	}
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, nil, err
	}
	for i := range controls {
		if got, err := unix.ParseUnixRights(&controls[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return msg[:n], fds, nil
}

// decode reads what the child sent: the report of a failure, or its answer,
// to which fds belong.
func decode(msg []byte, j *join, count int, fds []int) ([]opened, error) {
	switch len(msg) {
	case 0:
		return nil, errSilent
	case reportLen:
		return nil, reported(msg, j)
	case answerLen:
	default:
		return nil, errors.New("receive from child: no answer of ours")
	}
	all := make([]opened, count)
	for i := range all {
		if errno := binary.NativeEndian.Uint32(msg[4*i:]); errno != 0 {
			all[i] = opened{-1, unix.Errno(errno)}
			continue
		}
		if len(fds) == 0 {
			return nil, errors.New("receive from child: a descriptor is missing, the limit of open files may be reached")
		}
		all[i] = opened{fd: fds[0]}
		fds = fds[1:]
	}
	if len(fds) > 0 {
		return nil, errors.New("receive from child: more descriptors than were asked for")
	}
	return all, nil
}

// reported is the failure that a child reports.
func reported(msg []byte, j *join) error {
	errno := unix.Errno(binary.LittleEndian.Uint16(msg[4:]))
	if i := int(msg[1]); msg[0] == stageSetns && i < len(j.steps) {
		return fail(j.steps[i].String(), errno, j.explain(j.steps[i], errno))
	}
	return fail("prepare child", errno, "")
}

// reap waits for a child's end and says how it ended.
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
