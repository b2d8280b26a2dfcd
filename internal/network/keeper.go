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

	"epiphyte/internal/bypass"
	"epiphyte/internal/netdef"
	"epiphyte/tap"
)

// KeeperConfig of Keep.
type KeeperConfig struct {
	Definition netdef.Definition // with its subnets
	// Members is the path of the file that lists the members; empty: none.
	Members string
	// Listener takes the network's clients. Keep closes it.
	Listener *net.UnixListener
	// Program is run as the worker; the path of an executable.
	Program string
	// Stay has the network wait for members indefinitely, without a worker while there are
	// none.
	Stay bool
	// Ready is called when clients are served for the first time.
	Ready  func()
	Logger *slog.Logger
}

// A worker that has died is replaced at once, so that its members miss as little as possible.
// One that replaced another and served for less than steadyFor is replaced after a pause:
// otherwise starts would keep a processor busy.
const (
	restartPause = time.Second
	steadyFor    = 5 * time.Second
)

// errNotReady means that a worker ended before it served anybody.
var errNotReady = errors.New("the network's process ended before it was ready")

// keeper is the state of Keep.
type keeper struct {
	cfg      KeeperConfig
	removals *removals // of the paths of detached members' namespaces; nil: not watched
	// proven is the last program that has served; "": none has yet.
	proven    string
	empty     bool  // the worker ends because nobody is there
	upgrading bool  // the worker ends because another program takes over
	stopped   bool  // a client has asked for the end
	failed    error // why the worker cannot serve

	splicer splicer // of detached members' connections

	telling sync.Mutex // held while a message is sent to the worker

	starting sync.WaitGroup // agents

	mu      sync.Mutex
	kept    []kept
	control *net.UnixConn // to the current worker
}

// kept is a member, with descriptors that outlive the worker.
type kept struct {
	member Member
	with   descriptors
	agent  *tap.AgentProcess // started here; nil: none
}

func (m *kept) close() {
	if m.agent != nil {
		m.agent.Close()
	}
	m.with.close()
}

// Keep starts the network's worker, replaces it whenever it dies, and returns when the
// network has been empty for a while or ctx ends. It returns an error only if the first
// worker cannot serve.
func Keep(ctx context.Context, cfg KeeperConfig) error {
	k := &keeper{cfg: cfg}
	k.splicer.tell = func(op operation, connections []bypass.Pair) error {
		return k.tell(order{Op: op, Connections: connections})
	}
	defer k.close()
	replaced := false
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
	if k.removals != nil {
		k.removals.close()
	}
	k.splicer.close()
	k.starting.Wait()
	for _, m := range k.kept {
		m.close()
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
	k.listen(ctx, w)
	err = <-w.done
	switch {
	case k.failed != nil:
		return k.failed
	case k.proven == "" && err == nil:
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
	if err := k.tell(order{Op: opStart, Definition: &k.cfg.Definition}); err != nil {
		return err
	}
	for i := range k.kept {
		roles, fds := k.kept[i].with.list()
		if err := k.tell(order{Op: opKeep, Member: &k.kept[i].member, Roles: roles}, fds...); err != nil {
			return err
		}
	}
	return k.tell(order{Op: opServe})
}

// tell sends the current worker a message, and gives up on one that does not read.
func (k *keeper) tell(o order, fds ...int) error {
	k.telling.Lock()
	defer k.telling.Unlock()
	k.mu.Lock()
	control := k.control
	k.mu.Unlock()
	control.SetWriteDeadline(time.Now().Add(otherPatience))
	return send(control, o, fds...)
}

// listen handles the worker's messages until it has closed its end.
func (k *keeper) listen(ctx context.Context, w *workerProcess) {
	for {
		var o order
		fds, err := receive(k.control, &o)
		if err != nil {
			w.kill() // it is gone, or sends nonsense
			return
		}
		switch o.Op {
		case opReady:
			if k.proven == "" && k.cfg.Ready != nil {
				k.cfg.Ready()
			}
			k.proven = k.cfg.Program
			k.expelRemoved() // those removed while there was no worker
			k.splicer.tellAll()
		case opFailed:
			k.failed = errors.New(o.Text)
		case opKeep:
			with, err := assign(o.Roles, fds)
			if err != nil || o.Member == nil {
				w.kill()
				break
			}
			k.drop(o.Member.ID)
			k.hold(*o.Member, with)
			k.list()
			fds = nil
		case opPolicy:
			if len(fds) == 1 && slices.Equal(o.Roles, []role{rolePolicy}) && k.changePolicy(&o, fds[0]) {
				fds = nil
			}
		case opChange:
			if o.Member != nil {
				k.change(o.Member) // other networks do not read what has changed
			}
		case opDrop:
			if k.drop(o.ID) {
				k.list()
			}
			k.tell(order{Op: opDrop, ID: o.ID}) // fails for a worker that is about to end
		case opAgent:
			k.starting.Go(func() { k.startAgent(ctx, o.ID) })
		case opTake:
			if len(o.Connections) == 1 && len(fds) == 2 {
				if err := k.splicer.take(o.Connections[0], fds); err != nil {
					k.cfg.Logger.Warn("a connection between members cannot be carried", "error", err)
				}
				fds = nil
			}
		case opEnd:
			for _, p := range o.Connections {
				k.splicer.end(p)
			}
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

// list writes the file of members, for other networks.
func (k *keeper) list() {
	if k.cfg.Members == "" {
		return
	}
	k.mu.Lock()
	all := make([]Member, len(k.kept))
	for i, m := range k.kept {
		all[i] = m.member
	}
	k.mu.Unlock()
	if err := writeMembers(k.cfg.Members, k.cfg.Definition, all); err != nil {
		k.cfg.Logger.Warn("other networks do not learn of the members here", "error", err)
	}
}

// hold keeps a member, and watches the path of its namespace.
func (k *keeper) hold(m Member, with descriptors) {
	k.mu.Lock()
	k.kept = append(k.kept, kept{member: m, with: with})
	k.mu.Unlock()
	if !m.heldByPath() || k.removals == nil {
		return
	}
	if err := k.removals.add(m.NetNS); err != nil {
		k.cfg.Logger.Warn("the end of a member's namespace will not be noticed", "member", m.Name, "error", err)
	}
	if isRemoved(m.NetNS) { // before the watch began
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

// changePolicy replaces the kept policy of a member, and reports whether that member exists.
func (k *keeper) changePolicy(o *order, fd int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.kept {
		m := &k.kept[i]
		if m.member.ID != o.ID {
			continue
		}
		if before, ok := m.with[rolePolicy]; ok {
			unix.Close(before)
		}
		m.with[rolePolicy], m.member.Policy = fd, o.Text
		return true
	}
	return false
}

// expelRemoved has the worker remove the members whose namespaces have lost their paths.
func (k *keeper) expelRemoved() {
	k.mu.Lock()
	var gone []string
	for _, m := range k.kept {
		if m.member.heldByPath() && isRemoved(m.member.NetNS) {
			gone = append(gone, m.member.ID)
		}
	}
	k.mu.Unlock()
	for _, id := range gone {
		if k.tell(order{Op: opLeave, ID: id}) != nil {
			return // there is no worker; the next one will be told
		}
	}
}

// drop removes a member and closes its descriptors. It reports whether there was one.
func (k *keeper) drop(id string) bool {
	k.mu.Lock()
	i := slices.IndexFunc(k.kept, func(m kept) bool { return m.member.ID == id })
	if i < 0 {
		k.mu.Unlock()
		return false
	}
	gone := k.kept[i]
	k.kept = slices.Delete(k.kept, i, i+1)
	k.mu.Unlock()
	gone.close()
	return true
}

// awaitClient waits until somebody connects, and leaves the connection for the next
// worker to accept.
func (k *keeper) awaitClient(ctx context.Context) error {
	// A copy, because a net.Listener cannot wait without accepting.
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
	// Polls, because Read calls it once before anybody has connected.
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

// own starts the worker and waits for it on one thread: its death signal comes when the
// thread that started it ends.
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

// pair makes the connection to a worker, which inherits theirs.
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
