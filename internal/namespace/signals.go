package namespace

import (
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals sent to us that are meant for the command. SIGKILL and SIGSTOP
// cannot be caught. SIGTSTP, SIGTTIN and SIGTTOU stop us and the command together, since both
// are in the terminal's process group.
var forwarded = [...]os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGALRM,
	syscall.SIGCONT,
	syscall.SIGCHLD, // not passed on: see Process.followStop
}

// Signals is a subscription to the forwarded signals. It must begin before the command, and
// be ended by Close.
type Signals struct{ ch chan os.Signal }

// CatchSignals begins to collect signals instead of dying by them. A signal
// that the caller ignores (nohup) stays ignored, here and in the command.
func CatchSignals() *Signals {
	s := &Signals{ch: make(chan os.Signal, 16)}
	for _, sig := range forwarded {
		if !signal.Ignored(sig) {
			signal.Notify(s.ch, sig)
		}
	}
	return s
}

// Close lets signals take their default action again.
func (s *Signals) Close() { signal.Stop(s.ch) }

// C delivers the signals.
func (s *Signals) C() <-chan os.Signal { return s.ch }

// Forward passes a caught signal on to the command, unless the terminal has sent it there,
// too.
func (p *Process) Forward(sig os.Signal) {
	n, ok := sig.(syscall.Signal)
	switch {
	case !ok:
	case n == syscall.SIGCHLD:
		p.followStop()
	case p.immune(n):
		p.ended.Store(int32(n))
		p.Signal(syscall.SIGKILL)
	case fromTerminal(n) && p.inForeground():
	default:
		p.Signal(n)
	}
}

// immune reports whether a signal that ends other processes would not end the command, since
// it is process 1 and does not handle it (pid_namespaces(7)).
func (p *Process) immune(sig syscall.Signal) bool {
	if p.status == nil || sig == syscall.SIGWINCH || sig == syscall.SIGCONT {
		return false
	}
	buf := make([]byte, 4096)
	n, _ := p.status.ReadAt(buf, 0)
	return n > 0 && !handles(string(buf[:n]), sig)
}

// handles reports whether a process with this /proc/PID/status catches or ignores a signal.
func handles(status string, sig syscall.Signal) bool {
	for line := range strings.Lines(status) {
		name, set, _ := strings.Cut(line, ":")
		if name != "SigCgt" && name != "SigIgn" {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
		if err != nil || mask>>(sig-1)&1 != 0 {
			return true
		}
	}
	return false
}

// fromTerminal reports whether a terminal makes such signals, and sends them to
// its whole foreground process group (termios(3), tty_ioctl(4)).
func fromTerminal(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH, syscall.SIGCONT:
		return true
	}
	return false
}

// inForeground reports whether our process group, which the command shares, has
// the controlling terminal.
func (p *Process) inForeground() bool { return p.foreground() == unix.Getpgrp() }

// foreground returns the process group that has the controlling terminal, 0 if there is none.
func (p *Process) foreground() int {
	if p.tty == nil {
		return 0
	}
	group, err := unix.IoctlGetInt(int(p.tty.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return group
}

// followStop stops us as well if the command has stopped, as a shell does on 'suspend': so
// our parent learns of it, and gets the terminal back. When we are continued, so is the
// command, with the terminal if it had it.
func (p *Process) followStop() {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, p.process.Pid, &info, unix.WSTOPPED|unix.WNOHANG, nil)
	if err != nil || info.Signo == 0 {
		return
	}
	group := p.foreground()
	// To this thread, so that it stops here: another thread might take a signal to the
	// process.
	runtime.LockOSThread()
	unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP)
	runtime.UnlockOSThread()
	if group > 0 && group != unix.Getpgrp() && p.inForeground() {
		unix.IoctlSetPointerInt(int(p.tty.Fd()), unix.TIOCSPGRP, group)
	}
	p.Signal(syscall.SIGCONT)
}
