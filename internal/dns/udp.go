package dns

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
)

// How long a socket takes new queries; see "Spoofing" in the package comment.
const (
	socketAge  = 100 * time.Millisecond
	socketUses = 32
)

// socket is one connected UDP socket and the unanswered queries sent from it.
type socket struct {
	r     *Resolver
	srv   *server
	fd    int // -1: closed
	watch *shard.Watch
	timer shard.Timer

	uses    int
	sent    bool // something was sent, so there was a route
	aged    bool
	retired bool // takes no new queries
	// pending are the attempts that may still be answered. They are few, so searching
	// them beats hashing.
	pending []*attempt
}

// sendUDP reports whether the query is on its way. It never waits: a datagram
// that does not fit the send buffer is lost, as it might be anywhere else.
func (r *Resolver) sendUDP(a *attempt) bool {
	if a.sock == nil || a.sock.retired {
		s, err := r.socketTo(a.srv)
		if err != nil {
			r.demote(a.srv, udp, err.Error())
			return false
		}
		s.register(a)
	}
	binary.BigEndian.PutUint16(a.x.query, a.id)
	s := a.sock
	errno := sockio.Send(s.fd, a.x.query)
	if errno == 0 || errno == unix.EAGAIN || errno == unix.ENOBUFS {
		s.sent = true
		return true
	}
	s.forget(a)
	switch {
	case errno == unix.EMSGSIZE: // the query's fault
	case errno == unix.ECONNREFUSED: // the answer to an earlier query, and it concerns all on the socket
		s.refused(errno)
	case errno == unix.ENETUNREACH && s.sent: // the host has lost the address that the socket is bound to
		s.retire()
		return r.sendUDP(a)
	default:
		r.demote(a.srv, udp, errno.Error())
	}
	return false
}

// socketTo returns a socket for one more query to srv.
func (r *Resolver) socketTo(srv *server) (*socket, error) {
	if s := srv.sock; s != nil {
		if s.uses < socketUses {
			return s, nil
		}
		s.retire()
	}
	fd, err := r.connect(srv.addr)
	if err != nil {
		return nil, err
	}
	s := &socket{r: r, srv: srv, fd: fd}
	// Level-triggered: a batch is read, and more of it reported again.
	if s.watch, err = r.shard.Watch(fd, unix.EPOLLIN, s); err != nil {
		unix.Close(fd)
		return nil, err
	}
	r.shard.Arm(&s.timer, socketAge, s)
	srv.sock = s
	r.sockets[s] = struct{}{}
	return s, nil
}

// connect opens a socket to addr from the configured source, at a port of the
// kernel's random choice.
func (r *Resolver) connect(addr netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if errno := r.cfg.Source.Bind(fd, addr.Addr()); errno != 0 {
		return -1, fmt.Errorf("bind: %w", errno)
	}
	var sa sockio.Addr
	sa.Set(addr)
	if zone := addr.Addr().Zone(); zone != "" {
		index, err := interfaceIndex(fd, zone)
		if err != nil {
			return -1, fmt.Errorf("look up interface %q: %w", zone, err)
		}
		sa.SetScope(index)
	}
	if errno := sockio.Connect(fd, &sa); errno != 0 {
		return -1, fmt.Errorf("connect: %w", errno)
	}
	return fd, nil
}

// interfaceIndex reads a zone, which names an interface or is its index. Any
// socket will do.
func interfaceIndex(fd int, zone string) (uint32, error) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	req, err := unix.NewIfreq(zone)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return req.Uint32(), nil
}

// Run implements shard.Task for the timer: first the socket takes no more queries;
// when no query sent from it can be waiting any more, it is closed.
func (s *socket) Run() {
	if s.aged {
		s.close()
		return
	}
	s.aged = true
	s.retire()
	if s.fd >= 0 {
		s.r.shard.Arm(&s.timer, s.r.cfg.Timeout, s)
	}
}

// retire keeps the socket only for answers that are still to come, if any.
func (s *socket) retire() {
	s.retired = true
	if s.srv.sock == s {
		s.srv.sock = nil
	}
	if len(s.pending) == 0 {
		s.close()
	}
}

func (s *socket) close() {
	if s.fd < 0 {
		return
	}
	s.retired = true
	if s.srv.sock == s {
		s.srv.sock = nil
	}
	delete(s.r.sockets, s)
	s.r.shard.Disarm(&s.timer)
	s.watch.Forget()
	unix.Close(s.fd)
	s.fd = -1
	s.pending = nil
}

// forget stops waiting for the answer to an attempt.
func (s *socket) forget(a *attempt) {
	if i := slices.Index(s.pending, a); i >= 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
	}
	if s.retired && len(s.pending) == 0 {
		s.close()
	}
}

// find returns the attempt with the given id, or nil.
func (s *socket) find(id uint16) *attempt {
	for _, a := range s.pending {
		if a.id == id {
			return a
		}
	}
	return nil
}

// register has the attempt wait for an answer on the socket, with an id that is unique
// there. If the id need not change, the attempt goes on waiting on its earlier socket, too.
func (s *socket) register(a *attempt) {
	if a.sock == nil || s.find(a.id) != nil {
		a.forget()
		a.id = s.r.ids.next()
	}
	for s.find(a.id) != nil {
		a.id = s.r.ids.next()
	}
	if a.before != nil {
		a.before.forget(a)
	}
	a.before, a.sock = a.sock, s
	s.uses++
	s.pending = append(s.pending, a)
}

// forget stops waiting for answers over UDP.
func (a *attempt) forget() {
	for _, s := range [...]*socket{a.before, a.sock} {
		if s != nil {
			s.forget(a)
		}
	}
}

// randomIDs are unpredictable numbers, fetched for several queries at a time because
// fetching is a system call on some machines.
type randomIDs struct {
	bytes [2 * socketUses]byte
	left  int
}

func (r *randomIDs) next() uint16 {
	if r.left == 0 {
		rand.Read(r.bytes[:])
		r.left = len(r.bytes)
	}
	r.left -= 2
	return binary.BigEndian.Uint16(r.bytes[r.left:])
}

// Ready implements shard.Handler: it takes a batch of answers.
func (s *socket) Ready(uint32) {
	b := &s.r.batch
	n, errno := b.Receive(s.fd, false)
	switch errno {
	case 0, unix.EAGAIN, unix.EINTR:
	default:
		s.refuse(errno)
		return
	}
	for i := range n {
		s.deliver(b.Datagram(i))
	}
}

// deliver hands a datagram to the exchange that waits for it.
func (s *socket) deliver(m []byte) {
	if len(m) < headerLen {
		return
	}
	a := s.find(binary.BigEndian.Uint16(m))
	if a == nil || !answers(m, a.x.query) {
		return
	}
	s.forget(a)
	a.x.answered(a, m)
}

// refuse fails all attempts on the socket: the nameserver's host says that
// nothing listens there.
func (s *socket) refuse(err error) {
	s.r.demote(s.srv, udp, err.Error())
	s.retire()
	for len(s.pending) > 0 {
		a := s.pending[0]
		s.forget(a)
		a.x.failed(a)
	}
}

// refused takes the error of a send that was an earlier datagram's refusal, which
// the socket reports only once. The other attempts fail in the next turn, because
// the sender is in the middle of its own exchange.
func (s *socket) refused(err error) {
	s.r.demote(s.srv, udp, err.Error())
	s.retire()
	if s.fd >= 0 {
		s.r.shard.Again(shard.TaskFunc(func() { s.refuse(err) }))
	}
}
