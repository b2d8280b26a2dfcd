package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// untilQuit returns a context that ends when the user interrupts us, or types q on the
// terminal. stop restores the terminal.
func untilQuit(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	restore := unbuffered(int(os.Stdin.Fd()))
	if restore == nil {
		return ctx, cancel
	}
	go func() {
		for key := make([]byte, 1); ; {
			if n, err := os.Stdin.Read(key); n == 0 || err != nil {
				return
			}
			if key[0] == 'q' || key[0] == 'Q' {
				cancel()
			}
		}
	}()
	return ctx, func() {
		cancel()
		restore()
	}
}

// unbuffered has a terminal deliver keys as they are typed, without echo. restore is nil if
// fd is no terminal, or another job has it.
func unbuffered(fd int) (restore func()) {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil || group != unix.Getpgrp() {
		return nil
	}
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil
	}
	now := *before
	now.Lflag &^= unix.ICANON | unix.ECHO
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(fd, unix.TCSETS, &now) != nil {
		return nil
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, before) }
}
