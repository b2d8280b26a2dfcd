// Package rtnetlink asks the kernel about interfaces, addresses and routes, and changes
// them.
//
// # Theory of operation
//
// A Conn is a socket of rtnetlink(7). It speaks of the network namespace in which the
// socket was opened, by whomever, and wherever it is used. A request is a system call,
// and its answer is there when that returns, so nothing here ever waits.
//
// What it does not do: it knows no message; who asks builds and reads them.
package rtnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrInterrupted says that a list was changed while the kernel read it out: it may lack
// entries. Asked again, it is whole, unless it changes all the time.
var ErrInterrupted = errors.New("the list changed while it was read")

// Conn is an rtnetlink socket. It is not safe for concurrent use.
type Conn struct {
	FD  int
	buf [8 << 10]byte // the kernel's messages are no longer unless asked for
}

// Open opens a socket in the calling thread's network namespace, which does not block,
// and hears of changes in groups (RTMGRP_*).
func Open(groups uint32) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	return &Conn{FD: fd}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.FD) }

// Change asks for something to be done.
func (c *Conn) Change(typ, flags int, parts ...nl.NetlinkRequestData) error {
	_, err := c.Ask(typ, flags|unix.NLM_F_ACK, parts...)
	return err
}

// Ask sends a request and returns the messages that answer it. What others send to the
// socket is not listened to. Errors of the kernel are a unix.Errno.
func (c *Conn) Ask(typ, flags int, parts ...nl.NetlinkRequestData) (answers [][]byte, err error) {
	req := nl.NewNetlinkRequest(typ, flags)
	for _, p := range parts {
		req.AddData(p)
	}
	if err := unix.Sendto(c.FD, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	interrupted := false
	for {
		msgs, err := c.Receive()
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			if m.Header.Seq != req.Seq {
				continue
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				if interrupted {
					return answers, ErrInterrupted
				}
				return answers, nil
			case m.Header.Type != unix.NLMSG_ERROR:
				answers = append(answers, append([]byte(nil), m.Data...))
			case len(m.Data) < 4:
				return nil, unix.EBADMSG
			default: // an acknowledgement is error 0
				if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
					return nil, unix.Errno(errno)
				}
				return answers, nil
			}
		}
	}
}

// tries is how often a list is asked for that changes meanwhile.
const tries = 5

// List asks for all that there is, again while others change it. ErrInterrupted: they did
// every time, and this is what was read last.
func (c *Conn) List(typ int, header nl.NetlinkRequestData) (all [][]byte, err error) {
	for range tries {
		if all, err = c.Ask(typ, unix.NLM_F_DUMP, header); err != ErrInterrupted {
			break
		}
	}
	return all, err
}

// Receive returns messages of the kernel that have arrived, one or several. EAGAIN: none
// has; ENOBUFS: some were lost. What they hold is overwritten by the next call.
func (c *Conn) Receive() ([]syscall.NetlinkMessage, error) {
	for {
		size, from, err := unix.Recvfrom(c.FD, c.buf[:], unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 {
			return syscall.ParseNetlinkMessage(c.buf[:size])
		}
	}
}
