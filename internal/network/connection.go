package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/shard"
)

// maxConns bounds the clients at once: one for each member, and some that only ask.
const maxConns = maxMembers + 64

// acceptPause is the pause before the next accept when descriptors have run out.
const acceptPause = 100 * time.Millisecond

// accept serves clients until the listener is closed.
func (w *Worker) accept(ctx context.Context) {
	for {
		c, err := w.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		if err := w.checkPeer(c); err != nil {
			w.refuse(ctx, c, err)
			continue
		}
		w.tasks.Go(func() { w.serve(ctx, c, nil) })
	}
}

// Clients that are not permitted are told so, within these bounds.
const (
	maxRefused      = 16
	refusedPatience = time.Second
)

// refuse answers a client's first request with an error. The client does not count as one of
// the network's connections: guests that reach the socket's file could use all of those up.
func (w *Worker) refuse(ctx context.Context, c *net.UnixConn, reason error) {
	select {
	case w.refusing <- struct{}{}:
	default:
		c.Close()
		return
	}
	w.tasks.Go(func() {
		defer func() { <-w.refusing }()
		defer c.Close()
		c.SetDeadline(time.Now().Add(refusedPatience))
		defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })()
		fds, err := receive(c, &request{})
		closeAll(fds)
		if err == nil {
			send(c, refusal(reason))
		}
	})
}

// serve answers the requests of a connection; its member leaves when it ends. own is a member
// that came by it before this worker was started; nil: none.
func (w *Worker) serve(ctx context.Context, c *net.UnixConn, own *membership) {
	if !w.busy(c) {
		send(c, reply{Error: errEnding.Error(), Ending: true})
		c.Close()
		return
	}
	defer w.unbusy(c)
	if own != nil {
		w.carryFor(own)
		if own.Carries != nil { // older clients take no such message
			w.sendUnasked(own, reply{List: true}, nil)
		}
	}
	for {
		var req request
		fds, err := receive(c, &req)
		if err != nil {
			if errors.Is(err, unix.EMFILE) {
				send(c, refusal(err))
			}
			break
		}
		var answer reply
		var joined *membership
		switch {
		case req.Op == opJoin && own == nil:
			answer, joined = w.handleJoin(ctx, c, &req, fds)
			own = joined
		case own != nil && (req.Op == opCarried || req.Op == opEnded):
			w.hearOfCarried(own, req.Op, req.Connections)
		default:
			answer = w.handle(ctx, &req, fds)
		}
		closeAll(fds)
		if send(c, answer) != nil {
			if joined != nil { // its client was not told, detached or not
				w.leave(joined)
			}
			break
		}
		if joined != nil {
			w.mu.Lock()
			joined.told = true
			w.mu.Unlock()
			w.carryFor(joined)
		}
	}
	if own != nil && !own.Detached && ctx.Err() == nil {
		w.leave(own)
	}
}

// checkPeer returns an error for the clients that a single guest's control socket refuses,
// too: users other than ours and root, and guests, which are in other network namespaces. A
// network that stays is rootless podman's, which asks from a namespace of its own.
func (w *Worker) checkPeer(c *net.UnixConn) error {
	err := api.CheckUser(c)
	if err == nil && !w.def.Stay && w.netns != 0 {
		var from uint64
		if from, err = api.NetnsCookie(c); err == nil && from != w.netns {
			err = errors.New("the client is in another network namespace than the network's process: guests may not ask")
		}
	}
	return err
}

func refusal(err error) reply {
	return reply{Error: err.Error(), Ending: errors.Is(err, errEnding)}
}

// handleJoin makes a member of what came with the request.
func (w *Worker) handleJoin(ctx context.Context, c *net.UnixConn, req *request, fds []int) (reply, *membership) {
	with, err := assign(req.Roles, fds)
	if err == nil && req.Member == nil {
		err = errors.New("no member is named")
	}
	if err != nil {
		return refusal(fmt.Errorf("join: %w", err)), nil
	}
	m, err := w.join(ctx, *req.Member, with, c, false)
	if err != nil {
		return refusal(err), nil
	}
	granted := w.describe(m)
	return reply{Member: &granted, Info: w.info()}, m
}

// keep gives the keeper what a new worker needs to go on with a member.
func (w *Worker) keep(m *membership, with descriptors) error {
	if m.conn == nil {
		return w.keepWith(m, with)
	}
	with = maps.Clone(with)
	delete(with, roleProcess) // the connection's end is what counts
	raw, err := m.conn.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) {
		with[roleConnection] = int(fd)
		err = w.keepWith(m, with)
	})
	return errors.Join(controlErr, err)
}

func (w *Worker) keepWith(m *membership, with descriptors) error {
	roles, fds := with.list()
	known := w.describe(m)
	return w.tell(order{Op: opKeep, Member: &known, Roles: roles}, fds...)
}

// restore takes on a member of the worker before this one.
func (w *Worker) restore(ctx context.Context, r restored) {
	defer r.with.close()
	var conn *net.UnixConn
	if fd, ok := r.with[roleConnection]; ok {
		var err error
		conn, err = connOf(fd)
		delete(r.with, roleConnection) // connOf has closed it
		if err != nil {
			w.cfg.Logger.Error("the connection of a member is lost", "member", r.member.Name, "error", err)
		}
	}
	m, err := w.join(ctx, r.member, r.with, conn, true)
	switch {
	case err != nil:
		w.cfg.Logger.Error("a member is lost", "member", r.member.Name, "error", err)
		w.tell(order{Op: opDrop, ID: r.member.ID}) // leave does not, if nothing was reserved
		if conn != nil {
			conn.Close()
		}
	case m.Detached:
		w.carryFor(m)
	case conn == nil:
		w.leave(m)
	default:
		w.tasks.Go(func() { w.serve(ctx, conn, m) })
	}
}

// watchProcess has a detached member leave when its process ends; process is its pidfd.
// Shard's thread.
func (w *Worker) watchProcess(m *membership, process int) error {
	pidfd, err := unix.FcntlInt(uintptr(process), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watch its process: %w", advised(err))
	}
	if m.process, err = w.shard.Watch(pidfd, unix.EPOLLIN|unix.EPOLLONESHOT, &processEnd{w, m}); err != nil {
		unix.Close(pidfd)
		return fmt.Errorf("watch its process: %w", err)
	}
	m.pidfd = pidfd
	return nil
}

// processEnd handles the end of a member's process.
type processEnd struct {
	w *Worker
	m *membership
}

// Ready implements shard.Handler.
func (p *processEnd) Ready(uint32) { p.w.tasks.Go(func() { p.w.leave(p.m) }) }

var _ shard.Handler = (*processEnd)(nil)

// handle answers requests of all kinds but join.
func (w *Worker) handle(ctx context.Context, req *request, fds []int) reply {
	switch req.Op {
	case opInfo:
		return reply{Info: w.info()}
	case opMembers:
		page, more := w.page(req.After)
		return reply{Members: page, More: more}
	case opLeave:
		m, err := w.find(req.Who)
		if err != nil {
			return refusal(err)
		}
		w.expel(m)
		return reply{}
	case opPorts:
		m, err := w.find(req.Who)
		if err == nil {
			err = w.setPorts(ctx, m, req.Publish)
		}
		if err != nil {
			return refusal(err)
		}
		return reply{}
	case opPolicy:
		m, err := w.find(req.Who)
		if err == nil {
			err = w.changePolicy(m, req, fds)
		}
		if err != nil {
			return refusal(err)
		}
		return reply{}
	case opUpgrade:
		if err := w.tell(order{Op: opUpgrade, Text: req.Program}); err != nil {
			return refusal(err)
		}
		return reply{}
	case opStop:
		for _, m := range w.list() {
			w.expel(m)
		}
		if err := w.tell(order{Op: opStop}); err != nil {
			return refusal(err)
		}
		return reply{}
	}
	return reply{Error: fmt.Sprintf("a request %q is not known here: is this program older than its client? epiphyte network upgrade %s", req.Op, w.def.Name)}
}

// find is the member with an id or a name.
func (w *Worker) find(who string) (*membership, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.members[who]
	if m == nil {
		m = w.named(who)
	}
	if m == nil || !m.joined {
		return nil, fmt.Errorf("there is no member %q", who)
	}
	return m, nil
}

// list is the members by address.
func (w *Worker) list() []*membership {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*membership
	for _, m := range w.members {
		if m.joined {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b *membership) int { return a.IPv4.Compare(b.IPv4) })
	return all
}

// describe returns what is known of a member at this moment.
func (w *Worker) describe(m *membership) Member {
	w.mu.Lock()
	defer w.mu.Unlock()
	known := m.Member
	known.Publish = slices.Clone(m.Publish)
	return known
}

func (w *Worker) info() *Info {
	return &Info{
		Definition: w.def,
		Gateway:    w.plan.Gateway,
		Gateway6:   w.plan.Gateway6,
		Version:    w.cfg.Version,
		Worker:     os.Getpid(),
		Keeper:     os.Getppid(),
	}
}

// page returns members in the order of their IPv4 addresses, beginning after one, as many as
// a message has room for.
func (w *Worker) page(after netip.Addr) (page []Member, more bool) {
	for _, m := range w.list() {
		if after.IsValid() && m.IPv4.Compare(after) <= 0 {
			continue
		}
		if len(page) == maxMessage/maxMember-1 {
			return page, true
		}
		known := w.describe(m)
		stats := m.port.Stats()
		known.Stats = &stats
		_, counts := w.guest.MemberPolicy(m.guest)
		known.Denied = counts.Denied
		page = append(page, known)
	}
	return page, false
}

// tell sends the keeper a message. A keeper that does not read it in time counts as gone.
func (w *Worker) tell(o order, fds ...int) error {
	w.telling.Lock()
	defer w.telling.Unlock()
	w.control.SetWriteDeadline(time.Now().Add(otherPatience))
	return send(w.control, o, fds...)
}

// otherPatience bounds how long sending waits for the receiving process to read.
const otherPatience = 5 * time.Second
