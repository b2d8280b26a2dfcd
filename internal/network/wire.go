package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/bridge"
	"epiphyte/internal/netdef"
	"epiphyte/internal/retry"
)

// Member is what a member of a network asks for, and once it is one, what it has got.
type Member struct {
	// ID tells members apart and outlives their names: a container's id, say. Empty:
	// chosen.
	ID string `json:"id,omitempty"`
	// Name by which neighbours find it. Empty: chosen.
	Name     string   `json:"name,omitempty"`
	Aliases  []string `json:"aliases,omitempty"`
	Hostname string   `json:"hostname,omitempty"`
	// Interface in the member's namespace, for people.
	Interface string `json:"interface,omitempty"`
	// MAC of the interface; empty: chosen.
	MAC string `json:"mac,omitempty"`
	// IPv4 and IPv6 are its addresses; not valid: chosen.
	IPv4 netip.Addr `json:"ipv4,omitzero"`
	IPv6 netip.Addr `json:"ipv6,omitzero"`
	// Publish are ports of the host, as portfwd.Parse reads them.
	Publish []string `json:"publish,omitempty"`
	// Detached members stay when the connection ends by which they came, until Leave
	// or until their namespace is gone.
	Detached bool `json:"detached,omitempty"`
	// NetNS is the path of a detached member's network namespace. Its removal ends the
	// membership.
	NetNS string `json:"netns,omitempty"`
	// Transparent4 and Transparent6 say what the sockets can do of the agent that comes
	// with the member, as tap.AdoptConfig has it. Without an agent they mean nothing.
	Transparent4 bool `json:"transparent_ipv4,omitempty"`
	Transparent6 bool `json:"transparent_ipv6,omitempty"`

	// Policy is what its policy is called, for people; empty: it has none.
	Policy string `json:"policy,omitempty"`

	Since time.Time `json:"since,omitzero"`
	// Stats are the frames that its port of the bridge has carried.
	Stats *bridge.Stats `json:"stats,omitempty"`
}

// Info describes a running network.
type Info struct {
	netdef.Definition
	Gateway  netip.Addr `json:"gateway"`
	Gateway6 netip.Addr `json:"gateway6,omitzero"`
	Version  string     `json:"version"`
	Worker   int        `json:"worker_pid"`
	Keeper   int        `json:"keeper_pid"`
	// Members are known to Client.Info and Inspect alone.
	Members []Member `json:"members"`
}

// request is what a client sends. A connection carries one request after the other,
// each with its reply.
type request struct {
	Op      operation  `json:"op"`
	Member  *Member    `json:"member,omitempty"`  // of join, with its descriptors
	Roles   []role     `json:"roles,omitempty"`   // of the descriptors
	Who     string     `json:"who,omitempty"`     // of leave and ports: an id, or a name
	Program string     `json:"program,omitempty"` // of upgrade: a path
	After   netip.Addr `json:"after,omitzero"`    // of members: those with higher IPv4 addresses
	Publish []string   `json:"publish,omitempty"` // of ports, which are those of Who
}

type operation string

const (
	opInfo    operation = "info"
	opMembers operation = "members"
	opJoin    operation = "join"
	opLeave   operation = "leave"
	opPorts   operation = "ports"
	opUpgrade operation = "upgrade"
	opStop    operation = "stop"
)

// reply is the answer to a request.
type reply struct {
	Error  string `json:"error,omitempty"`
	Ending bool   `json:"ending,omitempty"` // the network is about to end: start it anew
	// Removed is sent unasked: the member of this connection is none any more.
	Removed bool    `json:"removed,omitempty"`
	Info    *Info   `json:"info,omitempty"`
	Member  *Member `json:"member,omitempty"`
	// Members are as many as fit, by IPv4 address; More says that there are others.
	Members []Member `json:"members,omitempty"`
	More    bool     `json:"more,omitempty"`
}

// order is a message between the keeper and its worker, of either direction. Of leave it
// is the keeper's: a detached member's namespace is gone.
type order struct {
	Op         operation          `json:"op"`
	Definition *netdef.Definition `json:"definition,omitempty"` // of start
	Member     *Member            `json:"member,omitempty"`     // of keep, with its descriptors
	Roles      []role             `json:"roles,omitempty"`      // of the descriptors
	ID         string             `json:"id,omitempty"`         // of drop and leave
	Text       string             `json:"text,omitempty"`       // of failed: why; of upgrade: a path
}

const (
	opStart  operation = "start"  // keeper: what to serve
	opKeep   operation = "keep"   // keeper: a member from before; worker: a new one
	opServe  operation = "serve"  // keeper: that was all
	opReady  operation = "ready"  // worker: clients are served
	opFailed operation = "failed" // worker: it cannot serve
	opChange operation = "change" // worker: what is known of a member, whose descriptors stay
	opDrop   operation = "drop"   // worker: a member has left; keeper: its descriptors are closed
	opEmpty  operation = "empty"  // worker: nobody is there, and it ends
)

const (
	// maxMessage bounds a message in bytes, below what a socket of the kernel's default
	// size carries at once (net.core.wmem_default).
	maxMessage = 160 << 10
	// maxMember bounds what is known of one member: several fit into a message.
	maxMember = 32 << 10
	// maxFDs come with a message at most: a TAP, an agent, a policy and a record, and the
	// connection or the process of their member.
	maxFDs = 5
)

// role says what a descriptor is for. Each message names those that come with it, in
// their order.
type role string

const (
	roleTAP        role = "tap"
	roleAgent      role = "agent"      // the socket of an agent in the member's namespaces
	roleProcess    role = "process"    // a pidfd: its end is the end of a detached member
	roleConnection role = "connection" // by which the member came
	rolePolicy     role = "policy"     // of SealPolicy
	roleRecord     role = "record"     // where flows that the policy decided are written down
)

// descriptors are a member's.
type descriptors map[role]int

// list is what a message says of descriptors, and what goes with it.
func (d descriptors) list() (roles []role, fds []int) {
	for r, fd := range d {
		roles, fds = append(roles, r), append(fds, fd)
	}
	return roles, fds
}

// assign is the inverse of list. On an error the descriptors stay the caller's.
func assign(roles []role, fds []int) (descriptors, error) {
	if len(roles) != len(fds) {
		return nil, fmt.Errorf("%d descriptors came, and %d were announced", len(fds), len(roles))
	}
	d := make(descriptors, len(fds))
	for i, r := range roles {
		if _, twice := d[r]; twice {
			return nil, fmt.Errorf("two descriptors came as %s", r)
		}
		d[r] = fds[i]
	}
	return d, nil
}

func (d descriptors) close() {
	for _, fd := range d {
		unix.Close(fd)
	}
}

// While too many of the user's descriptors are on their way, between any processes, others
// are refused (unix(7), ETOOMANYREFS). Whoever they are meant for takes them within
// milliseconds, or seconds on a busy machine.
const (
	inFlightPatience = 2 * time.Second
	inFlightPause    = 5 * time.Millisecond
)

// send sends one message with descriptors, which stay the caller's.
func send(c *net.UnixConn, message any, fds ...int) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", len(b))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	retry.While(context.Background(), inFlightPatience, inFlightPause, func() bool {
		_, _, err = c.WriteMsgUnix(b, rights, nil)
		return errors.Is(err, unix.ETOOMANYREFS)
	})
	return err
}

// receive receives one message with its descriptors, which are the caller's. io.EOF: the
// other end has closed.
func receive(c *net.UnixConn, message any) (fds []int, err error) {
	size, err := nextSize(c)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, io.EOF
	}
	if size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes is too long", size)
	}
	b, oob := make([]byte, size), make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	if fds, err = rights(oob[:oobn]); err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("more descriptors came than a message may have")
		if len(fds) < maxFDs {
			err = fmt.Errorf("receive descriptors: %w", advised(unix.EMFILE))
		}
	}
	if err == nil {
		err = json.Unmarshal(b[:n], message)
	}
	if err != nil {
		closeAll(fds)
		return nil, err
	}
	return fds, nil
}

// advised is the error with what helps against it, if that is known.
func advised(err error) error {
	if errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("%w (raise the limit of open files, ulimit -n)", err)
	}
	return err
}

// nextSize waits for a message and is its size, so that a connection at rest holds no
// buffer.
func nextSize(c *net.UnixConn) (size int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		size, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if waitErr != nil {
		return 0, waitErr
	}
	if err == unix.ECONNRESET {
		return 0, io.EOF
	}
	return size, err
}

func rights(oob []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		some, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		fds = append(fds, some...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// connOf makes a connection of a descriptor, which it closes.
func connOf(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a connection of ours")
	}
	return u, nil
}
