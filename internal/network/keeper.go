package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/netdef"
)

// KeeperConfig of Keep.
type KeeperConfig struct {
	Definition netdef.Definition // with its subnets
	// Listener takes the network's clients. Keep closes it.
	Listener *net.UnixListener
	// Program is run as the worker; the path of an executable.
	Program string
	// Stay has the network wait for members for ever, without a worker while there are
	// none.
	Stay bool
	// Ready is called when clients are served for the first time.
	Ready  func()
	Logger *slog.Logger
}

// Pauses before a worker that has died is replaced. One that served for longer than
// steadyFor is replaced at once, so that its members miss as little as possible; one that
// dies sooner would keep a processor busy with starts.
const (
	restartPause = time.Second
	steadyFor    = 5 * time.Second
)

// errNotReady is of a worker that ended before it served anybody.
var errNotReady = errors.New("the network's process ended before it was ready")

// keeper is the state of Keep.
type keeper struct {
	cfg      KeeperConfig
	removals *removals // of the paths of detached members' namespaces; nil: they are not watched
	ready    bool      // a worker has served before
	empty    bool      // the worker ends because nobody is there
	stopped  bool      // somebody has asked for the end
	failed   error     // why the worker cannot serve

	mu   sync.Mutex
	kept []kept
	// control is the connection to the worker of the moment.
	control *net.UnixConn
}

// kept is a member, with descriptors that outlive the worker.
type kept struct {
	member Member
	fds    []int
}

// Keep starts the network's worker, replaces it whenever it dies, and returns when the
// network has been empty for a while or ctx ends. It is an error that the first worker
// cannot serve.
func Keep(ctx context.Context, cfg KeeperConfig) error {
	k := &keeper{cfg: cfg}
	defer k.close()
	var err error
	if k.removals, err = watchRemovals(k.expelRemoved); err != nil {
		cfg.Logger.Warn("the end of members' namespaces will not be noticed", "error", err)
	}
	for {
		began := time.Now()
		err := k.run(ctx)
		switch {
		case ctx.Err() != nil || k.stopped:
			return nil
		case err != nil && !k.ready:
			return err
		case k.empty && len(k.kept) == 0:
			if !cfg.Stay || k.awaitClient(ctx) != nil {
				return nil
			}
			k.empty = false
			continue
		}
		cfg.Logger.Warn("the network's process has died and is started again", "error", err, "members", len(k.kept))
		if time.Since(began) < steadyFor {
			select {
			case <-time.After(restartPause):
			case <-ctx.Done():
			}
		}
	}
}

func (k *keeper) close() {
	k.cfg.Listener.Close()
	if k.removals != nil {
		k.removals.close()
	}
	for _, m := range k.kept {
		closeAll(m.fds)
	}
}

// run starts one worker and serves it until it ends.
func (k *keeper) run(ctx context.Context) error {
	ours, theirs, err := pair()
	if err != nil {
		return fmt.Errorf("start network: %w", err)
	}
	defer ours.Close()
	listener, err := k.cfg.Listener.File()
	if err != nil {
		theirs.Close()
		return fmt.Errorf("start network: %w", err)
	}
	k.setControl(ours)
	k.failed = nil
	w := &workerProcess{done: make(chan error, 1), started: make(chan error, 1)}
	go w.own(k.cfg.Program, listener, theirs)
	if err := <-w.started; err != nil {
		return fmt.Errorf("start %s: %w", k.cfg.Program, err)
	}
	defer context.AfterFunc(ctx, w.kill)()
	if err := k.introduce(); err != nil {
		w.kill()
	}
	k.listen(w)
	err = <-w.done
	switch {
	case k.failed != nil:
		return k.failed
	case !k.ready && err == nil:
		return errNotReady
	}
	return err
}

func (k *keeper) setControl(c *net.UnixConn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.control = c
}

// introduce tells a new worker what to serve.
func (k *keeper) introduce() error {
	if err := send(k.control, order{Op: opStart, Definition: &k.cfg.Definition}); err != nil {
		return err
	}
	for i := range k.kept {
		if err := send(k.control, order{Op: opKeep, Member: &k.kept[i].member}, k.kept[i].fds...); err != nil {
			return err
		}
	}
	return send(k.control, order{Op: opServe})
}

// listen obeys the worker until it has closed its end.
func (k *keeper) listen(w *workerProcess) {
	for {
		var o order
		fds, err := receive(k.control, &o)
		if err != nil {
			w.kill() // it is gone, or nothing that we know
			return
		}
		switch o.Op {
		case opReady:
			if !k.ready && k.cfg.Ready != nil {
				k.cfg.Ready()
			}
			k.ready = true
			k.expelRemoved() // while there was no worker to be told
		case opFailed:
			k.failed = errors.New(o.Text)
		case opKeep:
			k.drop(o.Member.ID)
			k.hold(*o.Member, fds)
			fds = nil
		case opChange:
			k.change(o.Member)
		case opDrop:
			k.drop(o.ID)
		case opEmpty:
			k.empty = true
		case opUpgrade:
			k.cfg.Program = o.Text
			w.kill()
		case opStop:
			k.stopped = true
			w.kill()
		}
		closeAll(fds)
	}
}

// hold keeps a member, and watches the path of its namespace.
func (k *keeper) hold(m Member, fds []int) {
	k.mu.Lock()
	k.kept = append(k.kept, kept{m, fds})
	k.mu.Unlock()
	if m.NetNS == "" || k.removals == nil {
		return
	}
	if err := k.removals.add(m.NetNS); err != nil {
		k.cfg.Logger.Warn("the end of a member's namespace will not be noticed", "member", m.Name, "error", err)
	}
	if isRemoved(m.NetNS) { // before it was watched
		k.expelRemoved()
	}
}

func (k *keeper) change(m *Member) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.kept {
		if k.kept[i].member.ID == m.ID {
			k.kept[i].member = *m
		}
	}
}

// expelRemoved has the worker see off the members whose namespaces have lost their paths.
func (k *keeper) expelRemoved() {
	k.mu.Lock()
	control := k.control
	var gone []string
	for _, m := range k.kept {
		if m.member.NetNS != "" && isRemoved(m.member.NetNS) {
			gone = append(gone, m.member.ID)
		}
	}
	k.mu.Unlock()
	for _, id := range gone {
		if send(control, order{Op: opLeave, ID: id}) != nil {
			return // there is no worker; the next one will be told
		}
	}
}

func (k *keeper) drop(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = slices.DeleteFunc(k.kept, func(m kept) bool {
		if m.member.ID == id {
			closeAll(m.fds)
		}
		return m.member.ID == id
	})
}

// awaitClient waits until somebody connects, and leaves the connection for the next
// worker to accept.
func (k *keeper) awaitClient(ctx context.Context) error {
	// A copy, because a net.Listener can wait only to accept.
	f, err := k.cfg.Listener.File()
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Now()) })()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	// Called at once as well, before anybody has connected.
	return raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}

// workerProcess is the worker as its parent sees it.
type workerProcess struct {
	process *os.Process
	started chan error
	done    chan error
}

// own starts the worker and waits for it on one thread, which its death signal is bound
// to.
func (w *workerProcess) own(program string, listener, control *os.File) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := &exec.Cmd{
		Path:        program,
		Args:        []string{workerName},
		Stderr:      os.Stderr,
		ExtraFiles:  []*os.File{listener, control}, // descriptors 3 and 4
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	err := cmd.Start()
	listener.Close()
	control.Close()
	w.process = cmd.Process
	w.started <- err
	if err == nil {
		w.done <- cmd.Wait()
	}
}

func (w *workerProcess) kill() { w.process.Kill() }

// pair is the connection to a worker, whose end is inherited.
func pair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if ours, err = connOf(fds[0]); err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	return ours, os.NewFile(uintptr(fds[1]), "control"), nil
}
