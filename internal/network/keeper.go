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

// Pauses before a worker that has died is replaced. It is replaced at once, so that its
// members miss as little as possible, unless it was a replacement that served for less
// than steadyFor: that would keep a processor busy with starts.
const (
	restartPause = time.Second
	steadyFor    = 5 * time.Second
)

// errNotReady is of a worker that ended before it served anybody.
var errNotReady = errors.New("the network's process ended before it was ready")

// keeper is the state of Keep.
type keeper struct {
	cfg  KeeperConfig
	kept []kept
	// control is the connection to the worker of the moment.
	control *net.UnixConn
	// proven is a program that has served, "" before the first one has.
	proven    string
	empty     bool  // the worker ends because nobody is there
	upgrading bool  // the worker ends because another program is to go on
	stopped   bool  // somebody has asked for the end
	failed    error // why the worker cannot serve
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
	replaced := false
	for {
		began := time.Now()
		err := k.run(ctx)
		switch {
		case ctx.Err() != nil || k.stopped:
			return nil
		case err != nil && k.proven == "":
			return err
		case k.empty && len(k.kept) == 0:
			if !cfg.Stay || k.awaitClient(ctx) != nil {
				return nil
			}
			k.empty, replaced = false, false
			continue
		case k.upgrading:
			k.upgrading, replaced = false, true
			cfg.Logger.Info("another program goes on", "program", k.cfg.Program, "members", len(k.kept))
			continue
		case k.cfg.Program != k.proven:
			cfg.Logger.Error("the new program does not serve; the one before goes on", "program", k.cfg.Program, "error", err)
			k.cfg.Program = k.proven
			continue
		}
		cfg.Logger.Warn("the network's process has died and is started again", "error", err, "members", len(k.kept))
		again := replaced && time.Since(began) < steadyFor
		replaced = true
		if again {
			select {
			case <-time.After(restartPause):
			case <-ctx.Done():
			}
		}
	}
}

func (k *keeper) close() {
	k.cfg.Listener.Close()
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
	k.control, k.failed = ours, nil
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
	case k.proven == "" && err == nil:
		return errNotReady
	}
	return err
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
			if k.proven == "" && k.cfg.Ready != nil {
				k.cfg.Ready()
			}
			k.proven = k.cfg.Program
		case opFailed:
			k.failed = errors.New(o.Text)
		case opKeep:
			k.drop(o.Member.ID)
			k.kept = append(k.kept, kept{*o.Member, fds})
			fds = nil
		case opChange:
			for i := range k.kept {
				if k.kept[i].member.ID == o.Member.ID {
					k.kept[i].member = *o.Member
				}
			}
		case opDrop:
			k.drop(o.ID)
		case opEmpty:
			k.empty = true
		case opUpgrade:
			k.cfg.Program, k.upgrading = o.Text, true
			w.kill()
		case opStop:
			k.stopped = true
			w.kill()
		}
		closeAll(fds)
	}
}

func (k *keeper) drop(id string) {
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
