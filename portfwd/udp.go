package portfwd

import (
	"container/list"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/relay"
	"epiphyte/internal/shard"
	"epiphyte/internal/sockio"
	"epiphyte/stack"
)

const (
	// sessionIdle is how long a client that is silent may still be answered:
	// the same as for mappings of the way out.
	sessionIdle = 240 * time.Second
	// maxSessions bounds the clients that are remembered, at about 200 bytes
	// each; the least recently used makes room.
	maxSessions = 16384
	// receiveBuffer is asked for; the kernel grants up to net.core.rmem_max. A
	// burst of 200 full-sized datagrams weighs 460 kB there.
	receiveBuffer = 1 << 20
)

// udpSocket is a published UDP port.
type udpSocket struct {
	m     *Manager
	fd    int
	guest netip.AddrPort
	v6    bool
	watch *shard.Watch

	joined bool // the kernel may join datagrams
	single bool // the kernel does not segment on its way

	sessions map[*session]struct{}
}

// sessionKey is how the guest's answers name a session: its own address and
// port, and the client's as the guest sees it.
type sessionKey struct{ guest, client netip.AddrPort }

// session is one client of one published UDP port.
type session struct {
	key      sessionKey
	socket   *udpSocket
	client   sockio.Addr // as the host knows it
	asked    []byte      // control message that makes replies leave from the address asked
	used     time.Duration
	counters relay.Counters
	place    *list.Element
}

// sessionTable holds the sessions, least recently used first.
type sessionTable struct {
	byKey  map[sessionKey]*session
	recent *list.List
	expire shard.Timer
	batch  sockio.Batch
	run    replyRun
}

func (t *sessionTable) init() {
	t.byKey = make(map[sessionKey]*session)
	t.recent = list.New()
}

func (t *sessionTable) remove(s *session) {
	delete(t.byKey, s.key)
	t.recent.Remove(s.place)
	delete(s.socket.sessions, s)
	if m := s.socket.m; m.claims != nil {
		m.claims.Release(stack.ProtoUDP, s.key.guest, s.key.client)
	}
}

// askDestination has the kernel tell which address each datagram was sent to.
func askDestination(fd, family int) error {
	if family == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

func (u *udpSocket) open() (err error) {
	if u.fd < 0 {
		return nil
	}
	if u.watch, err = u.m.shard.Watch(u.fd, unix.EPOLLIN, u); err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}

func (u *udpSocket) close() {
	if u.fd < 0 {
		return
	}
	for s := range u.sessions {
		u.m.sessions.remove(s)
	}
	if u.watch != nil {
		u.watch.Forget()
	}
	unix.Close(u.fd)
	u.fd = -1
}

// Ready implements shard.Handler. What is left waiting is reported again.
func (u *udpSocket) Ready(uint32) {
	b := &u.m.sessions.batch
	bytes := 0
	for range sockio.TurnBatches {
		n, errno := b.Receive(u.fd, true)
		if errno != 0 {
			return // EAGAIN; other errors are about datagrams sent before
		}
		to := u.m.destination(u.guest)
		for i := 0; i < n; {
			client := b.Addrs[i]
			segment, parts, next := b.Run(i, n)
			if len(parts) > 0 {
				u.receive(client, to, b.ControlOf(next-1), segment, parts...)
			}
			for ; i < next; i++ {
				bytes += int(b.Msgs[i].Len)
			}
		}
		if n > 1 && !u.joined {
			u.joined = true
			sockio.Join(u.fd)
		}
		if n < sockio.BatchSize || bytes >= sockio.TurnBytes {
			return
		}
	}
}

// receive takes datagrams of a client, of segment bytes each, in parts as
// [sockio.Batch.Run] makes them. The last one's control messages say where
// replies are to come from.
func (u *udpSocket) receive(client sockio.Addr, to netip.AddrPort, control []byte, segment int, parts ...[]byte) {
	m := u.m
	s := m.sessionOf(u, client, to)
	s.asked = replyFrom(s.asked[:0], control)
	s.touch()
	for _, p := range parts {
		s.counters.In += uint64(len(p))
	}
	m.stack.SendUDPs(s.key.client, to, segment, parts...)
}

const (
	// Clients that are seen as the gateway may have the same port. The next
	// ones get another, a few steps of a prime away, which ends far from the
	// ports that clients choose one after the other.
	portProbes = 8
	portStep   = 7919
)

// sessionOf finds or makes the session of a client.
func (m *Manager) sessionOf(u *udpSocket, client sockio.Addr, to netip.AddrPort) *session {
	peer := client.AddrPort()
	seen := m.visible(peer)
	key := sessionKey{guest: to, client: seen}
	for i := range portProbes {
		probe := sessionKey{guest: to, client: netip.AddrPortFrom(seen.Addr(), seen.Port()+uint16(i*portStep))}
		s := m.sessions.byKey[probe]
		if s != nil && s.socket == u && s.client.AddrPort() == peer {
			return s
		}
		if s == nil && probe.client.Port() != 0 {
			return m.newSession(probe, u, client)
		}
	}
	// All are taken: the guest cannot tell them apart, and the one that asked
	// last is answered.
	if s := m.sessions.byKey[key]; s != nil {
		m.sessions.remove(s)
	}
	return m.newSession(key, u, client)
}

func (m *Manager) newSession(key sessionKey, u *udpSocket, client sockio.Addr) *session {
	t := &m.sessions
	if len(t.byKey) >= maxSessions {
		t.remove(t.recent.Front().Value.(*session))
	}
	s := &session{key: key, socket: u, client: client, counters: relay.Counters{Begun: m.shard.Now()}}
	s.place = t.recent.PushBack(s)
	t.byKey[key] = s
	if m.claims != nil {
		m.claims.Claim(stack.ProtoUDP, key.guest, key.client)
	}
	if u.sessions == nil {
		u.sessions = make(map[*session]struct{})
	}
	u.sessions[s] = struct{}{}
	if !m.shard.Armed(&t.expire) {
		m.shard.Arm(&t.expire, sessionIdle, shard.TaskFunc(m.expireSessions))
	}
	return s
}

func (s *session) touch() {
	s.used = s.socket.m.shard.Now()
	s.socket.m.sessions.recent.MoveToBack(s.place)
}

// expireSessions forgets what has been idle too long. One timer serves all: it
// is set for the one that goes next.
func (m *Manager) expireSessions() {
	t := &m.sessions
	for e := t.recent.Front(); e != nil; e = t.recent.Front() {
		s := e.Value.(*session)
		if left := s.used + sessionIdle - m.shard.Now(); left > 0 {
			m.shard.Arm(&t.expire, left, shard.TaskFunc(m.expireSessions))
			return
		}
		t.remove(s)
	}
}
