package namespace

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that somebody sends to us and means the command.
// SIGKILL and SIGSTOP cannot be caught. SIGTSTP, SIGTTIN and SIGTTOU stop us
// and the command together, for both are in the terminal's process group.
var forwarded = [...]os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGALRM,
	syscall.SIGCONT,
}

// Signals is a subscription to the signals to be forwarded. It must begin
// before the command does, and end by Close.
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

// Forward passes a caught signal on to the command, unless the terminal that
// made it has sent it there too.
func (p *Process) Forward(sig os.Signal) {
	n, ok := sig.(syscall.Signal)
	if !ok || fromTerminal(n) && p.inForeground() {
		return
	}
	p.Signal(n)
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
func (p *Process) inForeground() bool {
	if p.tty == nil {
		return false
	}
	group, err := unix.IoctlGetInt(int(p.tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
