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
	"epiphyte/internal/bypass"
	"epiphyte/internal/netdef"
	"epiphyte/internal/retry"
)

// Member is what a member of a network asks for and, once it has joined, what it has.
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
	// Process is the pid of one in the member's namespaces, as the client that joined sees
	// it, for people; 0: not known.
	Process int `json:"process,omitempty"`
	// MAC of the interface; empty: chosen.
	MAC string `json:"mac,omitempty"`
	// IPv4 and IPv6 are its addresses; not valid: chosen.
	IPv4 netip.Addr `json:"ipv4,omitzero"`
	IPv6 netip.Addr `json:"ipv6,omitzero"`
	// Publish are ports of the host, as portfwd.Parse reads them.
	Publish []string `json:"publish,omitempty"`
	// Detached members stay when their client's connection ends, until Leave or until their
	// namespace is gone.
	Detached bool `json:"detached,omitempty"`
	// NetNS is the path of the network namespace of a member without a process. Its removal
	// ends the membership of a detached one.
	NetNS string `json:"netns,omitempty"`
	// Transparent4 and Transparent6 say what sockets of the member's agent can do, as in
	// tap.AdoptConfig. Without an agent they mean nothing.
	Transparent4 bool `json:"transparent_ipv4,omitempty"`
	Transparent6 bool `json:"transparent_ipv6,omitempty"`

	// NoStreams says that the agent makes no sockets for published ports.
	NoStreams bool `json:"no_streams,omitempty"`
	// Carries says that its client, or the keeper for a detached one, takes connections to
	// other such members that move as many bytes within a second; nil: they stay.
	Carries *uint64 `json:"carries,omitempty"`

	// Policy is the name of its policy, for people; empty: it has none.
	Policy string `json:"policy,omitempty"`
	// TakesPolicy says that its process accepts another policy while it is a member, and
	// uses that one if it has to join again.
	TakesPolicy bool `json:"takes_policy,omitempty"`
	// Denied counts the flows and names that the policy in force has denied.
	Denied uint64 `json:"denied,omitempty"`

	Since time.Time `json:"since,omitzero"`
	// Stats are the frames that its port of the bridge has carried.
	Stats *bridge.Stats `json:"stats,omitempty"`
}

// heldByPath reports whether the membership ends with the path of its namespace.
func (m *Member) heldByPath() bool { return m.Detached && m.NetNS != "" }

// Info describes a running network.
type Info struct {
	netdef.Definition
	Gateway  netip.Addr `json:"gateway"`
	Gateway6 netip.Addr `json:"gateway6,omitzero"`
	Version  string     `json:"version"`
	Worker   int        `json:"worker_pid"`
	Keeper   int        `json:"keeper_pid"`
	// Members are set by Client.Info and Inspect alone.
	Members []Member `json:"members"`
}

// request is what a client sends. A connection carries one request after the other,
// each with its reply.
type request struct {
	Op      operation  `json:"op"`
	Member  *Member    `json:"member,omitempty"`  // of join, with its descriptors
	Policy  string     `json:"policy,omitempty"`  // of policy: its name; it comes as a descriptor
	Roles   []role     `json:"roles,omitempty"`   // of the descriptors
	Who     string     `json:"who,omitempty"`     // of leave, ports and policy: an id, or a name
	Program string     `json:"program,omitempty"` // of upgrade: a path
	After   netip.Addr `json:"after,omitzero"`    // of members: those with higher IPv4 addresses
	Publish []string   `json:"publish,omitempty"` // of ports, which are those of Who
	// Connections, of carried and ended, are spliced by the client of this connection's member.
	Connections []bypass.Pair `json:"connections,omitempty"`
}

type operation string

const (
	opInfo    operation = "info"
	opMembers operation = "members"
	opJoin    operation = "join"
	opLeave   operation = "leave"
	opPorts   operation = "ports"
	opPolicy  operation = "policy" // also worker to keeper: it replaces the member's
	opUpgrade operation = "upgrade"
	opStop    operation = "stop"
	opCarried operation = "carried" // the client splices connections
	opEnded   operation = "ended"   // and these no longer
)

// reply is the answer to a request.
type reply struct {
	Error  string `json:"error,omitempty"`
	Ending bool   `json:"ending,omitempty"` // the network is about to end: start it anew
	// Removed is sent unasked: the member of this connection was removed.
	Removed bool `json:"removed,omitempty"`
	// Policy is sent unasked, with a descriptor: the name of the new policy of this
	// connection's member.
	Policy string `json:"policy,omitempty"`
	// Take is sent unasked, with two descriptors: a connection's ends, which the client is to
	// splice; End: one that it is to end; List: it is to say which it splices.
	Take *bypass.Pair `json:"take,omitempty"`
	End  *bypass.Pair `json:"end,omitempty"`
	List bool         `json:"list,omitempty"`

	Info   *Info   `json:"info,omitempty"`
	Member *Member `json:"member,omitempty"`
	// Members are as many as fit, by IPv4 address; More says that there are others.
	Members []Member `json:"members,omitempty"`
	More    bool     `json:"more,omitempty"`
}

// order is a message between the keeper and its worker, in either direction. The keeper sends
// leave when a detached member's namespace is gone.
type order struct {
	Op         operation          `json:"op"`
	Definition *netdef.Definition `json:"definition,omitempty"` // of start
	Member     *Member            `json:"member,omitempty"`     // of keep, with its descriptors
	Roles      []role             `json:"roles,omitempty"`      // of the descriptors
	ID         string             `json:"id,omitempty"`         // of drop, leave and policy
	Text       string             `json:"text,omitempty"`       // of failed: why; of upgrade: a path; of policy: its name
	// Connections of take, with two descriptors, of end, ended and carried.
	Connections []bypass.Pair `json:"connections,omitempty"`
}

const (
	opStart  operation = "start"  // keeper: what to serve
	opKeep   operation = "keep"   // keeper: a member from before; worker: a new one
	opServe  operation = "serve"  // keeper: nothing more comes before serving
	opReady  operation = "ready"  // worker: clients are served
	opFailed operation = "failed" // worker: it cannot serve
	opChange operation = "change" // worker: a member's new description; its descriptors stay
	opDrop   operation = "drop"   // worker: a member has left; keeper: its descriptors are closed
	opEmpty  operation = "empty"  // worker: nobody is there, and it ends
	opAgent  operation = "agent"  // worker: a detached member needs one; keeper: here it is
	opTake   operation = "take"   // worker: the keeper is to splice a detached member's connection
	opEnd    operation = "end"    // worker: and to end it; the keeper's carried and ended are a client's
)

const (
	// maxMessage bounds a message in bytes, below what a socket of the kernel's default
	// size carries at once (net.core.wmem_default).
	maxMessage = 160 << 10
	// maxMember bounds what is known of one member: several fit into a message.
	maxMember = 32 << 10
	// maxFDs bounds the descriptors of a message: a TAP, an agent, a policy, a record, and
	// the connection or the process of their member.
	maxFDs = 5
)

// role says what a descriptor is for. Each message lists the roles of its descriptors, in
// their order.
type role string

const (
	roleTAP        role = "tap"
	roleAgent      role = "agent"      // the socket of an agent in the member's namespaces
	roleProcess    role = "process"    // a pidfd: its end is the end of a detached member
	roleConnection role = "connection" // over which the member joined
	rolePolicy     role = "policy"     // from SealPolicy
	roleRecord     role = "record"     // of the flows that the policy decided
)

// descriptors are a member's.
type descriptors map[role]int

// list returns the descriptors as a message carries them, with their roles.
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

// While too many of the user's descriptors are in flight, between any processes, the kernel
// refuses more (unix(7), ETOOMANYREFS). Their receivers take them within milliseconds, or
// seconds on a busy machine.
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

// advised adds to an error what helps against it, if that is known.
func advised(err error) error {
	if errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("%w (raise the limit of open files, ulimit -n)", err)
	}
	return err
}

// nextSize waits for a message and returns its size, so that an idle connection holds no
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

// connOf makes a connection from a descriptor, which it closes even on an error.
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
