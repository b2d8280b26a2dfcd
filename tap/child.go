package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// result is what became of one request: a descriptor, which is the receiver's
// to close, or the reason why there is none.
type result struct {
	fd  int // -1 with an error
	err error
}

func closeResults(all []result) {
	for _, r := range all {
		if r.fd >= 0 {
			unix.Close(r.fd)
		}
	}
}

// child is a process of ours that stays in the target's namespaces.
type child struct {
	process *os.Process
	stop    func() bool   // cancels the kill at the end of the context
	killed  chan struct{} // closed after the kill
}

// start starts a child that runs p and is killed when ctx ends. The caller must
// hold its OS thread until the child is reaped: the child is killed when the
// thread that made it ends.
func (p *program) start(ctx context.Context) (*child, error) {
	pid, errno := p.fork()
	if errno != 0 {
		return nil, fail("fork", errno, hintFork(errno))
	}
	process, _ := os.FindProcess(pid) // it always succeeds on Unix
	c := &child{process: process, killed: make(chan struct{})}
	c.stop = context.AfterFunc(ctx, func() {
		defer close(c.killed)
		process.Kill()
	})
	return c, nil
}

// reap waits for the child's end, and for a kill that is under way, which uses the
// process's descriptor.
func (c *child) reap() {
	c.process.Wait()
	if !c.stop() {
		<-c.killed
	}
}

// ask has a child carry out the requests, none of which may block: one result for each,
// in order.
func ask(j *join, requests ...request) ([]result, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	defer unix.Close(ours)
	p := newProgram(j, theirs)
	p.opener = newOpenProgram(requests)
	pid, errno := p.vfork()
	unix.Close(theirs)
	if errno != 0 {
		return nil, fail("fork", errno, hintFork(errno))
	}
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			break
		}
	}
	msg, fds, err := receiveMessage(ours, answerLen, maxRequests, 0)
	if err != nil {
		return nil, fmt.Errorf("receive from child: %w", err)
	}
	all, err := decode(msg, j, len(requests), fds)
	if err != nil {
		closeAll(fds)
	}
	return all, err
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

// errSilent: the child has ended, killed perhaps, without a report.
var errSilent = errors.New("the child in the namespace ended without an answer")

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
func decode(msg []byte, j *join, count int, fds []int) ([]result, error) {
	switch len(msg) {
	case 0:
		return nil, errSilent
	case reportLen:
		return nil, reported(msg, j)
	case answerLen:
	default:
		return nil, errors.New("receive from child: no answer of ours")
	}
	all := make([]result, count)
	for i := range all {
		if errno := binary.NativeEndian.Uint32(msg[4*i:]); errno != 0 {
			all[i] = result{-1, unix.Errno(errno)}
			continue
		}
		if len(fds) == 0 {
			return nil, errors.New("receive from child: a descriptor is missing, the limit of open files may be reached")
		}
		all[i] = result{fd: fds[0]}
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
