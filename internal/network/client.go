package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/tap"
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
	conn   *net.UnixConn
	path   string
	start  Starter // nil: where the network has ended, that is an error
	reopen bool    // it came by Open
}

// Dial connects to the network whose socket is at path. ErrNotRunning: nobody listens.
func Dial(path string) (*Client, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return nil, ErrNotRunning
	case err != nil:
		return nil, fmt.Errorf("connect to network: %w", err)
	}
	if err := checkServer(c); err != nil {
		c.Close()
		return nil, err
	}
	return &Client{conn: c, path: path}, nil
}

// checkPath is the error of a path that no socket can have: the kernel calls it an invalid
// argument.
func checkPath(path string) error {
	const longest = len(unix.RawSockaddrUnix{}.Path) - 1 // its end is marked, unix(7)
	if len(path) > longest {
		return fmt.Errorf("%s is %d bytes too long for a socket: set XDG_RUNTIME_DIR to a shorter path, or shorten the network's name", path, len(path)-longest)
	}
	return nil
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
	info, err := c.hello(ctx)
	if err != nil {
		return nil, err
	}
	info.Members = []Member{}
	for after := (netip.Addr{}); ; {
		r, err := c.ask(ctx, request{Op: opMembers, After: after})
		if err != nil {
			return nil, err
		}
		info.Members = append(info.Members, r.Members...)
		if !r.More || len(r.Members) == 0 {
			return info, nil
		}
		after = r.Members[len(r.Members)-1].IPv4
	}
}

// hello asks for the network.
func (c *Client) hello(ctx context.Context) (*Info, error) {
	r, err := c.ask(ctx, request{Op: opInfo})
	if err != nil {
		return nil, err
	}
	return r.Info, nil
}

// Leave has a member leave, by its id or name. Its interface is gone when it returns.
func (c *Client) Leave(ctx context.Context, who string) error {
	_, err := c.ask(ctx, request{Op: opLeave, Who: who})
	return err
}

// SetPorts publishes ports of the host for a member, by its id or name, in place of those
// that it has. When one cannot be, it has none.
func (c *Client) SetPorts(ctx context.Context, who string, rules []string) error {
	_, err := c.ask(ctx, request{Op: opPorts, Who: who, Publish: rules})
	return err
}

// Upgrade has the program at path go on in place of the network's process, which has
// ended when it returns. Whoever opens the network next waits for the program.
func (c *Client) Upgrade(ctx context.Context, path string) error {
	_, err := c.ask(ctx, request{Op: opUpgrade, Program: path})
	if err == nil { // it may end before it can say so
		defer context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Now()) })()
		_, err = receive(c.conn, &reply{})
		err = ended(ctx, err)
	}
	return unlessEnded(err)
}

// Stop ends the network, whoever is a member.
func (c *Client) Stop(ctx context.Context) error {
	_, err := c.ask(ctx, request{Op: opStop})
	return unlessEnded(err)
}

// unlessEnded is the error of a request that ends the network's process.
func unlessEnded(err error) error {
	if err == errRetry {
		return nil
	}
	return err
}

// Handover is what the network takes over of a member. All of it stays open with the
// caller, too, whose it is to close.
type Handover struct {
	// TAP was opened in the member's namespaces, with the virtio-net header.
	TAP int
	// Agent makes sockets there, for published TCP ports, and has started; nil: they go
	// by the TAP.
	Agent *tap.AgentProcess
	// Policy is what the member may reach, of SealPolicy; nil: there is none. Record is
	// a file that takes the record of its flows; nil: there is none, either.
	Policy, Record *os.File
	// Process is a pidfd, whose end is that of a detached member; nil: none.
	Process *os.File
}

// Join makes a member of what is handed over, and returns it with what it has got. A
// client of Open joins anew where the network's process ends meanwhile, as it does for an
// upgrade.
func (c *Client) Join(ctx context.Context, m Member, h Handover) (*Member, *Info, error) {
	with := descriptors{roleTAP: h.TAP}
	if h.Agent != nil {
		with[roleAgent] = h.Agent.FD()
		m.Transparent4, m.Transparent6 = h.Agent.Transparent()
	}
	if h.Process != nil {
		with[roleProcess] = int(h.Process.Fd())
	}
	if h.Policy != nil {
		with[rolePolicy] = int(h.Policy.Fd())
	}
	if h.Record != nil {
		with[roleRecord] = int(h.Record.Fd())
	}
	roles, fds := with.list()
	r, err := c.ask(ctx, request{Op: opJoin, Member: &m, Roles: roles}, fds...)
	for tries := 1; c.reopen && err == errRetry && tries < openTries; tries++ {
		if err = c.renew(ctx); err == nil {
			r, err = c.ask(ctx, request{Op: opJoin, Member: &m, Roles: roles}, fds...)
		}
	}
	if err == nil && r.Member.Policy != m.Policy {
		err = fmt.Errorf("its process is older than this program and knows no policies: epiphyte network upgrade %s", r.Info.Name)
		if m.Detached {
			err = errors.Join(err, c.Leave(ctx, r.Member.ID))
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return r.Member, r.Info, nil
}

// renew is a client's connection to the next process of its network.
func (c *Client) renew(ctx context.Context) error {
	next, _, err := Open(ctx, c.path, c.start)
	if err != nil {
		return err
	}
	c.Close()
	*c = *next
	return nil
}

// Inspect connects to a running network and asks for it and its members.
func Inspect(ctx context.Context, path string) (*Client, *Info, error) {
	c, _, err := Open(ctx, path, nil)
	if err != nil {
		return nil, nil, err
	}
	info, err := c.Info(ctx)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, info, nil
}

// Open connects to the network at path, which start starts if need be, and asks for it,
// but not for its members.
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
			if info, err = c.hello(ctx); err == nil {
				c.start, c.reopen = start, true
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
