package network

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/netdef"
	"epiphyte/internal/retry"
)

// ErrRunning means that another process serves the network already.
var ErrRunning = errors.New("the network is running already")

// ReadyText is what a network's process writes to its standard output when clients can
// connect. Anything else is the reason why it cannot serve.
const ReadyText = "ready\n"

// Start returns a Starter that runs this program in the background as the network's
// process: "network serve NAME", in a session of its own, with the log in a file.
func Start(paths netdef.Paths, name string) Starter {
	return func(ctx context.Context) error {
		logFile, err := os.OpenFile(paths.Log(name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("start network %s: %w", name, err)
		}
		defer logFile.Close()
		answer, theirs, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("start network %s: %w", name, err)
		}
		defer answer.Close()
		cmd := &exec.Cmd{
			Path:        "/proc/self/exe",
			Args:        []string{"epiphyte", "network", "serve", name},
			Env:         os.Environ(),
			Dir:         "/",
			Stdout:      theirs,
			Stderr:      logFile,
			SysProcAttr: &syscall.SysProcAttr{Setsid: true},
		}
		err = cmd.Start()
		theirs.Close()
		if err != nil {
			return fmt.Errorf("start network %s: %w", name, err)
		}
		go cmd.Wait() // it outlives us
		defer context.AfterFunc(ctx, func() { answer.Close() })()
		text, err := io.ReadAll(answer)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("start network %s: %w", name, err)
		case string(text) == ReadyText:
			return nil
		case len(text) == 0:
			return fmt.Errorf("start network %s: its process has ended; %s says why", name, paths.Log(name))
		}
		return errors.New(string(bytes.TrimSpace(text)))
	}
}

// RunConfig of Run.
type RunConfig struct {
	Paths netdef.Paths
	Name  string
	Stay  bool // see KeeperConfig; a definition may say so, too
	Ready func()
	// Logger of the network's keeper.
	Logger *slog.Logger
}

// Run serves a network until it has been empty for a while or ctx ends; ErrRunning: another
// process serves it. Its definition is the one on disk, or else the default.
func Run(ctx context.Context, cfg RunConfig) error {
	lock, err := takeLock(cfg.Paths.Lock(cfg.Name))
	if err != nil {
		return err
	}
	// Never removed: a process that waits for the lock of a removed file would hold another
	// lock than those that come later.
	defer lock.Close()
	def, err := define(ctx, cfg.Paths, cfg.Name, cfg.Logger)
	if err != nil {
		return err
	}
	defer cfg.Paths.Running().Remove(cfg.Name)
	listener, err := listen(cfg.Paths.Socket(cfg.Name))
	if err != nil {
		return fmt.Errorf("serve network %s: %w", cfg.Name, err)
	}
	defer os.Remove(cfg.Paths.Socket(cfg.Name))
	defer os.Remove(cfg.Paths.Members(cfg.Name))
	defer os.Remove(cfg.Paths.API(cfg.Name)) // of a worker that was killed
	return Keep(ctx, KeeperConfig{
		Definition: def, Members: cfg.Paths.Members(cfg.Name), Listener: listener, Program: "/proc/self/exe",
		Stay: cfg.Stay || def.Stay, Ready: cfg.Ready, Logger: cfg.Logger,
	})
}

// define returns the network's definition with its subnets, which no other network gets from
// now on.
func define(ctx context.Context, paths netdef.Paths, name string, log *slog.Logger) (netdef.Definition, error) {
	def, _, err := paths.Load(name)
	if err != nil {
		return def, err
	}
	def.Name = name
	def.MTU = cmp.Or(def.MTU, netdef.DefaultMTU)
	return ChooseSubnets(ctx, paths, def, paths.Running(), log)
}

// ChooseSubnets chooses what def leaves open, as netdef.Choose does, and saves the result in
// to before any other process can choose.
func ChooseSubnets(ctx context.Context, paths netdef.Paths, def netdef.Definition, to netdef.Paths, log *slog.Logger) (netdef.Definition, error) {
	choosing, err := waitForLock(ctx, filepath.Join(paths.Runtime, "subnets.lock"))
	if err != nil {
		return def, err
	}
	defer choosing.Close()
	routes, err := netdef.HostRoutes()
	if err != nil {
		log.Warn("the host's routes are not known; a subnet may clash with one", "error", err)
	}
	for _, p := range [...]netip.Prefix{def.Subnet, def.Subnet6} {
		if r, overlaps := netdef.Overlap(p, routes); p.IsValid() && overlaps {
			log.Warn("the network's subnet is the host's, too: members do not reach those hosts", "subnet", p, "route", r)
		}
	}
	defined, err := paths.Subnets(def.Name)
	if err != nil {
		log.Warn("the subnets of some networks are not known", "error", err)
	}
	if def, err = netdef.Choose(def, slices.Concat(routes, defined, running(paths, def.Name))); err != nil {
		return def, err
	}
	return def, to.Save(def)
}

// running returns the subnets of other networks that run. It removes what killed ones left
// behind.
func running(paths netdef.Paths, name string) (taken []netip.Prefix) {
	all, _ := paths.Running().List()
	for _, d := range all {
		switch {
		case d.Name == name:
		case !locked(paths.Lock(d.Name)):
			paths.Running().Remove(d.Name)
		default:
			taken = append(taken, d.Subnet, d.Subnet6)
		}
	}
	return taken
}

// openLock opens a file and locks it or asks whether it is locked, as the fcntl(2) command
// how says. Its locks are those of open file descriptions, which end with the process.
func openLock(path string, how int) (*os.File, *unix.Flock_t, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("lock network: %w", err)
	}
	lock := &unix.Flock_t{Type: unix.F_WRLCK}
	for {
		err = unix.FcntlFlock(f.Fd(), how, lock)
		if err != unix.EINTR {
			break
		}
	}
	switch err {
	case nil:
		return f, lock, nil
	case unix.EAGAIN, unix.EACCES:
		err = ErrRunning
	default:
		err = fmt.Errorf("lock %s: %w", path, err)
	}
	f.Close()
	return nil, nil, err
}

// takeLock takes the lock of a file. ErrRunning: another has it.
func takeLock(path string) (*os.File, error) {
	f, _, err := openLock(path, unix.F_OFD_SETLK)
	return f, err
}

// waitForLock waits for a lock that others hold only briefly.
func waitForLock(ctx context.Context, path string) (f *os.File, err error) {
	ended := retry.While(ctx, lockPatience, lockPause, func() bool {
		f, err = takeLock(path)
		return err == ErrRunning
	})
	if err == ErrRunning {
		err = fmt.Errorf("%s is locked for long: end the process that holds it (fuser %s)", path, path)
	}
	return f, cmp.Or(ended, err)
}

// The lock is held while routes are listed and a file is written.
const (
	lockPatience = 10 * time.Second
	lockPause    = 5 * time.Millisecond
)

// locked reports whether a file is locked. It does not try to take the lock: another process
// that wants it would be refused meanwhile.
func locked(path string) bool {
	f, lock, err := openLock(path, unix.F_OFD_GETLK)
	if err != nil {
		return true // not known to be free
	}
	f.Close()
	return lock.Type != unix.F_UNLCK
}

// AwaitEnd waits until the network's process, which was stopped, has ended; ErrRunning: it
// has not after endPatience.
func AwaitEnd(ctx context.Context, paths netdef.Paths, name string) error {
	there := true
	err := retry.While(ctx, endPatience, endPause, func() bool {
		there = locked(paths.Lock(name))
		return there
	})
	if err == nil && there {
		err = ErrRunning
	}
	return err
}

// A process that was stopped is gone within milliseconds, unless the machine is busy.
const (
	endPatience = 10 * time.Second
	endPause    = time.Millisecond
)

// listen listens at path, in place of a predecessor that is gone: the caller holds the
// lock.
func listen(path string) (*net.UnixListener, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
