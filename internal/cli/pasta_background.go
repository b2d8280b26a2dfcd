package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// callerFD is the background process's pipe to the parent that waits for it.
const callerFD = 3

// background starts this program again in the background, with the same arguments, and
// returns 0 when that one works, or its exit code. Until then it writes to our streams;
// after that it no longer holds them.
func background(args []string, stderr io.Writer) int {
	code, err := startBackground(args)
	if err != nil {
		fmt.Fprintf(stderr, "%s: start in the background: %v\n", pastaName, err)
	}
	return code
}

func startBackground(args []string) (code int, err error) {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return 1, err
	}
	defer ready.Close()
	// The child must not keep open what the caller has left open.
	if err := unix.CloseRange(callerFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil && err != unix.ENOSYS {
		return 1, err
	}
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        append([]string{backgroundName}, args...),
		Env:         os.Environ(),
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		ExtraFiles:  []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return 1, err
	}
	if n, _ := ready.Read(make([]byte, 1)); n == 1 {
		return 0, nil
	}
	err = cmd.Wait()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Exited() {
		return ended.ExitCode(), nil // it has said why
	}
	return 1, err
}

// serveCaller serves in the background, for a caller that waits until all works.
func (p *Pasta) serveCaller(ctx context.Context, stderr io.Writer) int {
	unix.CloseOnExec(callerFD)
	// Executed through /proc, the process is called exe.
	_ = os.WriteFile("/proc/self/comm", []byte(pastaName), 0)
	err := p.leaveDirectory()
	var null int
	if err == nil {
		null, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0) // the sandbox forbids it later
	}
	if err != nil {
		return newReporter(pastaName, &p.Options, stderr).fail(err)
	}
	return p.serve(ctx, stderr, func() error {
		for fd := range callerFD {
			if err := unix.Dup3(null, fd, 0); err != nil {
				return fmt.Errorf("leave the caller's streams: %w", err)
			}
		}
		unix.Close(null)
		defer unix.Close(callerFD)
		if _, err := unix.Write(callerFD, []byte{'1'}); err != nil {
			return fmt.Errorf("tell the caller: %w", err) // it has gone without learning of us
		}
		return nil
	})
}

// leaveDirectory changes to the root directory, so that the one we were started in can be
// unmounted, after making all paths absolute.
func (p *Pasta) leaveDirectory() error {
	l := p.Line
	for _, path := range [...]*string{&l.NetNS, &l.UserNS, &l.PIDFile, &p.LogFile, &p.ConfSocket, &p.Pcap, &p.HTTPSocket, &p.ResolvConf, &p.Policy.File, &p.Policy.Log} {
		if *path == "" || filepath.IsAbs(*path) {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("find %s: %w", *path, err)
		}
		*path = abs
	}
	return os.Chdir("/")
}
