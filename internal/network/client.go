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

// ErrNotRunning means that no process serves the network.
var ErrNotRunning = errors.New("it is not running")

// errRetry means that the network ended while it was being asked: start it anew.
var errRetry = errors.New("the network has ended")

// Starter starts a network's processes if there are none. It returns when the network
// accepts connections, or the reason why it does not.
type Starter func(ctx context.Context) error

// Client is a connection to a running network. It serves one request at a time.
type Client struct {
	conn   *net.UnixConn
	path   string
	start  Starter // nil: where the network has ended, that is an error
	reopen bool    // made by Open, so Join may connect anew
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

// checkPath returns an error for a path too long for a socket: the kernel only calls that an
// invalid argument.
func checkPath(path string) error {
	const longest = len(unix.RawSockaddrUnix{}.Path) - 1 // a NUL ends it, unix(7)
	if len(path) > longest {
		return fmt.Errorf("%s is %d bytes too long for a socket: set XDG_RUNTIME_DIR to a shorter path, or shorten the network's name", path, len(path)-longest)
	}
	return nil
}

// Close ends the connection, and with it a membership made over it.
func (c *Client) Close() error { return c.conn.Close() }

// ask sends a request with descriptors, which stay the caller's, and returns the answer.
func (c *Client) ask(ctx context.Context, r request, fds ...int) (*reply, error) {
	defer context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Now()) })()
	if err := send(c.conn, r, fds...); err != nil {
		return nil, ended(ctx, err)
	}
	var answer reply
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

// ended returns errRetry if err is the end of the network, and ctx's cause if ctx has ended.
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

// hello asks for the network, without its members.
func (c *Client) hello(ctx context.Context) (*Info, error) {
	r, err := c.ask(ctx, request{Op: opInfo})
	if err != nil {
		return nil, err
	}
	return r.Info, nil
}

// Leave removes the member with the id or name who. Its interface is gone when Leave returns.
func (c *Client) Leave(ctx context.Context, who string) error {
	_, err := c.ask(ctx, request{Op: opLeave, Who: who})
	return err
}

// SetPorts replaces the published ports of the member with the id or name who. If one of
// them cannot be published, none is.
func (c *Client) SetPorts(ctx context.Context, who string, rules []string) error {
	_, err := c.ask(ctx, request{Op: opPorts, Who: who, Publish: rules})
	return err
}

// SetPolicy replaces the policy of the member with the id or name who by one from SealPolicy.
// It is in force when SetPolicy returns; after an error the old one is. name is for people.
func (c *Client) SetPolicy(ctx context.Context, who, name string, sealed *os.File) error {
	_, err := c.ask(ctx, request{Op: opPolicy, Who: who, Policy: name, Roles: []role{rolePolicy}}, int(sealed.Fd()))
	return err
}

// Upgrade replaces the network's process, which has ended when Upgrade returns, by the
// program at path. The next client to open the network waits for that program.
func (c *Client) Upgrade(ctx context.Context, path string) error {
	_, err := c.ask(ctx, request{Op: opUpgrade, Program: path})
	if err == nil { // it may end before it can say so
		defer context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Now()) })()
		_, err = receive(c.conn, &reply{})
		err = ended(ctx, err)
	}
	return unlessEnded(err)
}

// Stop ends the network, even if it has members.
func (c *Client) Stop(ctx context.Context) error {
	_, err := c.ask(ctx, request{Op: opStop})
	return unlessEnded(err)
}

// unlessEnded drops errRetry, which is success for a request that ends the network's process.
func unlessEnded(err error) error {
	if err == errRetry {
		return nil
	}
	return err
}

// Handover is what a member hands to the network. The caller's own copies stay open, and are
// its to close.
type Handover struct {
	// TAP was opened in the member's namespaces, with the virtio-net header.
	TAP int
	// Agent has started, and makes sockets there for published TCP ports; nil: they go
	// through the TAP.
	Agent *tap.AgentProcess
	// Policy, from SealPolicy, is what the member may reach; Record takes the record of its
	// flows. Either may be nil.
	Policy, Record *os.File
	// Process is a pidfd: a detached member leaves when that process ends; nil: none.
	Process *os.File
}

// Join makes a member of what is handed over, and returns it as granted. A client made by
// Open joins anew if the network's process ends meanwhile, as it does for an upgrade.
func (c *Client) Join(ctx context.Context, m Member, h Handover) (*Member, *Info, error) {
	with := descriptors{roleTAP: h.TAP}
	m.TakesPolicy = true
	if h.Agent != nil {
		with[roleAgent] = h.Agent.FD()
		m.Transparent4, m.Transparent6 = h.Agent.Transparent()
		m.NoStreams = h.Agent.NoStreams()
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
	if err == nil && r.Member == nil {
		err = errRetry // not the answer, but what the next worker says to members
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

// renew connects to the next process of the client's network.
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

// Open connects to the network at path, after calling start, unless that is nil, if it is not
// running. It asks for the network, but not for its members.
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

// openTries bounds the tries to reach a network that ends whenever it is asked.
const openTries = 10
