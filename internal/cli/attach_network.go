package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"epiphyte/internal/fdwait"
	"epiphyte/tap"
)

// attachCommand makes existing namespaces members of networks.
const attachCommand = "attach"

// AttachMember is the command line of "attach" and "network connect", which make existing
// namespaces members of networks.
type AttachMember struct {
	MemberOptions
	Options   Options // publish, the policy, bulk, log-level and log-format alone
	Target    tap.Target
	Interface string // the first one's name; empty: the first of eth0, eth1, ... that is free
	ReadyFD   FD
	ExitFD    FD
	Detached  bool // the members stay, and the program ends
}

// ParseAttachMember reads the command line of attach, without that word.
func ParseAttachMember(prog string, args []string) (*AttachMember, *Exit) {
	a := &AttachMember{Options: defaultOptions(0)}
	fs := newFlags(prog + " attach")
	a.MemberOptions.addTo(fs)
	a.addCommon(fs)
	a.Options.addBulk(fs) // whose members are detached has no client for it
	fs.VarP(fdValue("ready-fd", &a.ReadyFD), "ready-fd", "r", "write \"1\" to `FD` once the network works")
	fs.VarP(fdValue("exit-fd", &a.ExitFD), "exit-fd", "e", "end when the other side of `FD` is closed")
	usage := func() string {
		return fmt.Sprintf("Usage: %s attach --network NAME [OPTION]... PID|PATH [INTERFACE]\n", prog) +
			aboutHelp("Make the network namespace of the process PID, or at PATH, a member of networks.\n"+
				"It is one until the program or the process ends. INTERFACE is its device; the default "+
				"is the first of eth0, eth1, ... that is free.") + optionsHelp(fs, optionGroups()...)
	}
	operands, exit := parseFlags(fs, args, usage)
	if exit != nil {
		return nil, exit
	}
	err := a.setTarget(operands)
	if err == nil && len(a.Networks) == 0 {
		err = fmt.Errorf("--network is missing; for a network of the guest's own: %s PID TAPNAME", prog)
	}
	if err != nil {
		return nil, lineFault(fs.Name(), err)
	}
	if exit := a.ReadyFD.checkWritable("ready-fd"); exit != nil {
		return nil, exit.named(fs.Name())
	}
	return a, nil
}

// addCommon adds the flags that attach and connect share, besides a member's wishes.
func (a *AttachMember) addCommon(fs *pflag.FlagSet) {
	fs.VarP(publishValue(&a.Options.Publish), "publish", "p", publishUsage)
	a.Options.Policy.addTo(fs)
	fs.Var(levelValue(&a.Options.LogLevel), "log-level", "log to stderr from `LEVEL` on: debug, info, warn, error")
	fs.Var(choiceValue("log-format", &a.Options.LogFormat, logText, logJSON), "log-format", "write the log as `FORMAT`: text, json")
}

// setTarget reads PID|PATH [INTERFACE].
func (a *AttachMember) setTarget(operands []string) error {
	if len(operands) == 0 || len(operands) > 2 {
		return errors.New("a process or the path of a network namespace is wanted, and then at most the name of an interface")
	}
	if pid, err := strconv.Atoi(operands[0]); err == nil {
		if pid <= 0 {
			return fmt.Errorf("%s is not a process", operands[0])
		}
		a.Target.PID = pid
	} else {
		if _, err := os.Stat(operands[0]); err != nil {
			return fmt.Errorf("%s: %s; a process or the path of a network namespace is wanted", operands[0], errnoText(err))
		}
		a.Target.NetNS = operands[0]
	}
	if len(operands) == 2 {
		a.Interface = operands[1]
	}
	return nil
}

// run joins the networks and, unless detached, stays until the members' process ends, the
// exit fd hangs up, or ctx ends. It returns the exit code.
func (a *AttachMember) run(ctx context.Context, prog string, stderr io.Writer) int {
	r := newReporter(prog, &a.Options, stderr)
	if err := a.Options.Policy.checkMember(); err != nil {
		return r.fail(err)
	}
	process, err := openProcess(a.Target.PID)
	if err != nil {
		return r.fail(err)
	}
	defer process.Close()
	members, err := openNetworks(ctx, a.Networks)
	if err != nil {
		return r.fail(err)
	}
	defer func() { closeMembers(members) }()
	if err := takePolicies(members, &a.Options.Policy); err != nil {
		return r.fail(err)
	}
	for i, m := range members {
		if err := a.join(ctx, i, m, process, r.log); err != nil {
			return r.fail(err)
		}
	}
	if a.Detached {
		return 0
	}
	<-reserveThreads(0)
	for _, m := range members {
		m.hold(r)
	}
	a.ReadyFD.Notify()
	if a.ExitFD.num == a.ReadyFD.num {
		a.ExitFD.open = false // just closed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hangup := make(chan error, 1)
	if a.ExitFD.Given() {
		go func() { hangup <- a.ExitFD.WaitHangup(ctx) }()
	}
	left, ended := removed(ctx, members), processEnd(ctx, process)
	for range members {
		select {
		case err := <-hangup:
			if err != nil {
				return r.fail(err)
			}
			return 0
		case <-ended:
			return 0
		case <-ctx.Done():
			return 0
		case m := <-left:
			m.close()
			r.fail(fmt.Errorf("network %s has removed this guest", m.network))
		}
	}
	return 1
}

// join joins network i.
func (a *AttachMember) join(ctx context.Context, i int, m *member, process *os.File, log *slog.Logger) error {
	wish := a.wish(i, a.Options.publishTexts())
	wish.Detached, wish.Process = a.Detached, a.Target.PID
	if a.Target.NetNS != "" {
		path, err := filepath.Abs(a.Target.NetNS)
		if err != nil {
			return err
		}
		wish.NetNS = path
	}
	device := tap.Config{Target: a.Target, Name: a.Interface, Logger: log}
	m.startAgent(ctx, &a.Options, device, &wish)
	if i == 0 && a.Interface != "" {
		return m.join(ctx, device, wish, process)
	}
	for n := i; ; n++ {
		device.Name = interfaceOf(n)
		err := m.join(ctx, device, wish, process)
		taken := m.device == nil && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL))
		if !taken || n == i+maxTaken {
			return err
		}
	}
}

// maxTaken bounds how many interface names are skipped because something else has them:
// another membership, or a device that is no TAP. A busy one costs a second, in which a
// predecessor may release it.
const maxTaken = 16

// openProcess opens a pidfd, nil for pid 0.
func openProcess(pid int) (*os.File, error) {
	if pid == 0 {
		return nil, nil
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "process"), nil
}

// processEnd returns a channel that is closed when the process ends; for nil it never is.
func processEnd(ctx context.Context, process *os.File) <-chan struct{} {
	ended := make(chan struct{})
	if process == nil {
		return ended
	}
	go func() {
		if fdwait.Ended(process) == nil && ctx.Err() == nil {
			close(ended)
		}
	}()
	return ended
}
