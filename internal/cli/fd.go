package cli

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"epiphyte/internal/fdwait"
)

// FD is a descriptor named on the command line. The zero value is none.
type FD struct {
	given bool
	num   int
	open  bool // was open when the command line was read
	null  int  // /dev/null, to take the place of a standard stream
}

// claim takes a descriptor that the caller passed by number, and keeps the processes that we
// start from inheriting it. A number that is not open is remembered as such: what we open
// under it later is not the caller's.
func claim(num int) FD {
	flags, err := unix.FcntlInt(uintptr(num), unix.F_GETFD, 0)
	if err != nil {
		return FD{given: true, num: num}
	}
	fd := FD{given: true, num: num, open: true}
	if num > 2 {
		unix.FcntlInt(uintptr(num), unix.F_SETFD, flags|unix.FD_CLOEXEC)
	} else {
		// Opened now, because the sandbox forbids it later.
		fd.null, _ = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	return fd
}

// Given reports whether the flag was on the command line.
func (f FD) Given() bool { return f.given }

// Notify writes the single byte '1' and closes the descriptor, which is how the
// caller learns that the network is ready (contract, "ready-fd"). Errors are
// ignored: the caller may be gone, or not care.
func (f FD) Notify() {
	if !f.open {
		return
	}
	for {
		if _, err := unix.Write(f.num, []byte{'1'}); err != unix.EINTR {
			break
		}
	}
	f.release()
}

// release closes the descriptor. It replaces a standard stream by /dev/null instead, so that
// no socket of ours gets its number.
func (f FD) release() {
	if f.num > 2 {
		unix.Close(f.num)
		return
	}
	if f.null < 0 {
		return
	}
	unix.Dup3(f.null, f.num, 0)
	unix.Close(f.null)
}

// WaitHangup blocks until poll(2), asked for POLLHUP alone, returns any event
// of the descriptor: the other end of a pipe or socket is gone, or the number
// was not open to begin with. Data to read is no event, and a regular file
// never has one. It returns nil then, the context's error when that ends first,
// and otherwise poll's error.
func (f FD) WaitHangup(ctx context.Context) error {
	if !f.open {
		return nil
	}
	err := fdwait.Poll(ctx, f.num, unix.POLLHUP)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("poll exit-fd %d: %w", f.num, err)
	}
	return err
}
