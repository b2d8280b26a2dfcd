// Package fdwait waits for one descriptor outside of a shard.
//
// # Theory of operation
//
// Some events come once in a program's life, of descriptors that the Go runtime's poller
// does not take: a hang-up without interest in data, a process that has ended, a change of
// the table of mounts. A thread blocks in poll(2) for each. The end of the context wakes it
// through an eventfd.
package fdwait

import (
	"context"

	"golang.org/x/sys/unix"
)

// Poll blocks until poll(2), asked for events, returns any event of fd. It returns nil then,
// the context's error when that ends first, and otherwise poll's error. A negative fd has no
// events.
func Poll(ctx context.Context, fd int, events int16) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		close(woken)
	})
	defer func() {
		if !stop() {
			<-woken
		}
		unix.Close(wake)
	}()
	for {
		fds := []unix.PollFd{
			{Fd: int32(fd), Events: events},
			{Fd: int32(wake), Events: unix.POLLIN},
		}
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case fds[0].Revents != 0:
			return nil
		case fds[1].Revents != 0:
			return ctx.Err()
		}
	}
}
