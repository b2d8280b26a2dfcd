package dns

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long a socket takes new queries; see "Spoofing" in the package comment.
const (
	socketAge  = 100 * time.Millisecond
	socketUses = 32
)

// socket is one connected UDP socket and the queries sent from it that are not
// answered. A goroutine reads it. Its fields are guarded by Resolver.mu, except
// those set once at the start.
type socket struct {
	r    *Resolver
	srv  *server
	conn *net.UDPConn
	raw  syscall.RawConn
	born time.Time

	uses    int
	retired bool // takes no new queries
	closed  bool
	pending map[uint16]*attempt
}

// socketTo gives a socket for one more query to srv. The caller holds r.mu.
func (r *Resolver) socketTo(srv *server, now time.Time) (*socket, error) {
	if s := srv.sock; s != nil {
		if s.uses < socketUses && now.Sub(s.born) < socketAge {
			return s, nil
		}
		s.retire()
	}
	if r.closed {
		return nil, ErrClosed
	}
	from, _, err := r.cfg.Source.For(srv.addr.Addr())
	if err != nil {
		return nil, err
	}
	var local *net.UDPAddr
	if from.IsValid() {
		local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(srv.addr))
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	s := &socket{r: r, srv: srv, conn: conn, raw: raw, born: now, pending: make(map[uint16]*attempt)}
	conn.SetReadDeadline(time.Now().Add(socketAge))
	srv.sock = s
	r.sockets[s] = struct{}{}
	r.running.Add(1)
	go s.read()
	return s, nil
}

// retire keeps the socket for the answers still awaited, if any.
func (s *socket) retire() {
	s.retired = true
	if s.srv.sock == s {
		s.srv.sock = nil
	}
	if len(s.pending) == 0 {
		s.abandon()
	}
}

// abandon closes the socket, whatever is awaited; read then ends.
func (s *socket) abandon() {
	if s.closed {
		return
	}
	s.closed, s.retired = true, true
	if s.srv.sock == s {
		s.srv.sock = nil
	}
	delete(s.r.sockets, s)
	s.conn.Close()
}

// forget takes an attempt off the list of those awaited.
func (s *socket) forget(a *attempt) {
	if s.pending[a.id] == a {
		delete(s.pending, a.id)
	}
	if s.retired && len(s.pending) == 0 {
		s.abandon()
	}
}

// register finds an id for the attempt that nothing else on the socket has.
func (s *socket) register(a *attempt) {
	var b [2]byte
	for {
		rand.Read(b[:])
		a.id = binary.BigEndian.Uint16(b[:])
		if _, taken := s.pending[a.id]; !taken {
			break
		}
	}
	a.sock = s
	s.uses++
	s.pending[a.id] = a
}

// send never waits: a datagram that does not fit the send buffer is lost, as it
// would be anywhere else on its way.
func (s *socket) send(m []byte) error {
	var sent error
	err := s.raw.Write(func(fd uintptr) bool {
		sent = unix.Send(int(fd), m, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	if err != nil {
		return err
	}
	if sent == unix.EAGAIN || sent == unix.ENOBUFS {
		return nil
	}
	return sent
}

// receive waits for one datagram, and holds a buffer only once it is there.
func (s *socket) receive() ([]byte, error) {
	var m []byte
	var failed error
	err := s.raw.Read(func(fd uintptr) bool {
		buf := s.r.buffers.Get().(*[maxMessage]byte)
		defer s.r.buffers.Put(buf)
		n, err := unix.Read(int(fd), buf[:])
		switch err {
		case nil:
			m = append([]byte(nil), buf[:n]...)
		case unix.EAGAIN:
			return false
		default:
			failed = err
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return m, failed
}

// read delivers what arrives until the socket is closed, which it does itself
// when nothing can come any more.
func (s *socket) read() {
	defer s.r.running.Done()
	end := s.born.Add(socketAge + s.r.cfg.Timeout)
	for {
		m, err := s.receive()
		s.r.mu.Lock()
		switch {
		case s.closed:
		case err == nil:
			s.deliver(m)
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.retire()
			if left := end.Sub(s.r.now()); left > 0 && !s.closed {
				s.conn.SetReadDeadline(time.Now().Add(left))
			} else {
				s.abandon()
			}
		case errors.Is(err, unix.EINTR):
		default:
			s.refuse(err)
		}
		closed := s.closed
		s.r.unlock()
		if closed {
			return
		}
	}
}

// deliver hands a datagram to the exchange that awaits it.
func (s *socket) deliver(m []byte) {
	if len(m) < headerLen {
		return
	}
	a := s.pending[binary.BigEndian.Uint16(m)]
	if a == nil || !answers(m, a.x.query) {
		return
	}
	s.srv.udp.answer(s.r.now())
	s.forget(a)
	a.x.answered(a, m)
}

// refuse ends all attempts on the socket: the nameserver's host says that
// nobody listens there.
func (s *socket) refuse(err error) {
	now := s.r.now()
	if s.srv.udp.failed(now, s.r.cfg.Demotion) {
		s.r.tellDemoted(s.srv, "udp", err.Error(), now)
	}
	failed := make([]*attempt, 0, len(s.pending))
	for _, a := range s.pending {
		failed = append(failed, a)
	}
	s.retire()
	for _, a := range failed {
		s.forget(a)
		a.x.failed(a)
	}
}
