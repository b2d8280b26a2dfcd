package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotRunning is of a network without a process.
var ErrNotRunning = errors.New("the network is not running")

// errRetry is of a network that ended while it was asked: it is to be started anew.
var errRetry = errors.New("the network has ended")

// Starter starts a network's processes where there are none. It returns when the network
// can be connected to, or why it cannot.
type Starter func(ctx context.Context) error

// Client is a connection to a running network. It serves one request at a time.
type Client struct {
	conn *net.UnixConn
}

// Dial connects to the network whose socket is at path. ErrNotRunning: nobody listens.
func Dial(path string) (*Client, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return nil, ErrNotRunning
	case err != nil:
		return nil, fmt.Errorf("connect to network: %w", err)
	}
	return &Client{c}, nil
}

// Close ends the connection, and with it the membership that came by it.
func (c *Client) Close() error { return c.conn.Close() }

// ask sends a request with descriptors, which stay the caller's, and returns the answer.
func (c *Client) ask(ctx context.Context, r request, fds ...int) (*reply, error) {
	defer context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Now()) })()
	var answer reply
	if err := send(c.conn, r, fds...); err != nil {
		return nil, ended(ctx, err)
	}
	if _, err := receive(c.conn, &answer); err != nil {
		return nil, ended(ctx, err)
	}
	switch {
	case answer.Ending:
		return nil, errRetry
	case answer.Error != "":
		return nil, errors.New(answer.Error)
	}
	return &answer, nil
}

// ended tells the end of a network from other errors.
func ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		return errRetry
	}
	return fmt.Errorf("ask network: %w", err)
}

// Info asks for the network and its members.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	r, err := c.ask(ctx, request{Op: opInfo})
	if err != nil {
		return nil, err
	}
	return r.Info, nil
}

// SetPorts publishes ports of the host for a member, by its id or name, in place of those
// that it has. When one cannot be, it has none.
func (c *Client) SetPorts(ctx context.Context, who string, rules []string) error {
	_, err := c.ask(ctx, request{Op: opPorts, Who: who, Publish: rules})
	return err
}

// Leave has a member leave, by its id or name.
func (c *Client) Leave(ctx context.Context, who string) error {
	_, err := c.ask(ctx, request{Op: opLeave, Who: who})
	return err
}

// Upgrade has the program at path go on in place of the network's process.
func (c *Client) Upgrade(ctx context.Context, path string) error {
	_, err := c.ask(ctx, request{Op: opUpgrade, Program: path})
	return err
}

// Stop ends the network, whoever is a member.
func (c *Client) Stop(ctx context.Context) error {
	_, err := c.ask(ctx, request{Op: opStop})
	if err == errRetry {
		return nil
	}
	return err
}

// Join makes a member of a TAP that was opened in its namespaces, with the virtio-net
// header, and returns it with what it has got. process is a pidfd whose end is that of a
// detached member; nil: none. Both stay the caller's.
func (c *Client) Join(ctx context.Context, m Member, tap int, process *os.File) (*Member, *Info, error) {
	fds := []int{tap}
	if process != nil {
		fds = append(fds, int(process.Fd()))
	}
	r, err := c.ask(ctx, request{Op: opJoin, Member: &m}, fds...)
	if err != nil {
		return nil, nil, err
	}
	return r.Member, r.Info, nil
}

// Open connects to the network at path, which start starts if need be, and asks for it.
func Open(ctx context.Context, path string, start Starter) (*Client, *Info, error) {
	var err error
	for range openTries {
		var c *Client
		if c, err = Dial(path); err == ErrNotRunning && start != nil {
			if err = start(ctx); err != nil {
				return nil, nil, err
			}
			c, err = Dial(path)
		}
		if err == nil {
			var info *Info
			if info, err = c.Info(ctx); err == nil {
				return c, info, nil
			}
			c.Close()
		}
		if err != errRetry && (err != ErrNotRunning || start == nil) {
			break
		}
	}
	return nil, nil, err
}

// openTries bounds the tries to meet a network that ends whenever it is asked.
const openTries = 10
