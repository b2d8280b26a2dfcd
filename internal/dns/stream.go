package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"slices"
	"time"
)

// Bounds of one stream's unanswered queries. Beyond them the stream is not read
// until answers have left, and the guest's window closes.
const (
	maxStreamQueries = 64
	maxStreamBytes   = 128 << 10
)

// stream serves one connection of a guest. One goroutine owns all of it; the
// readers of the two connections, and the dialling, send it what they get.
type stream struct {
	r      *Resolver
	ctx    context.Context
	client net.Conn

	fromClient   chan []byte // closed at the client's end of file
	fromUpstream chan event

	up      *upstream
	dialing bool
	servers []*server // candidates of the present search, in order
	tried   []*server // those that failed since the last answer

	pending  map[uint16]*streamQuery // by the id sent upstream
	order    []uint16                // of pending, oldest first
	bytes    int                     // held in pending
	nextID   uint16
	lastSeen time.Time // last message either way
}

type streamQuery struct {
	message  []byte
	id       uint16 // the guest's
	deadline time.Time
}

// upstream is a connection to a nameserver. Its reader is the only other user.
type upstream struct {
	conn    net.Conn
	srv     *server
	asked   time.Time // when the oldest unanswered query was sent to it
	answers int
}

// event is what happened upstream: an answer, the end of a connection, or the
// outcome of dialling.
type event struct {
	up      *upstream
	message []byte
	dialed  *dialResult
	err     error
}

func (r *Resolver) serveStream(client net.Conn) {
	defer r.running.Done()
	ctx, cancel := context.WithCancel(r.ctx)
	// Ends a write to a guest that does not read.
	stop := context.AfterFunc(ctx, func() { client.Close() })
	s := &stream{
		r:            r,
		ctx:          ctx,
		client:       client,
		fromClient:   make(chan []byte),
		fromUpstream: make(chan event),
		pending:      make(map[uint16]*streamQuery),
		lastSeen:     time.Now(),
	}
	r.running.Add(1)
	go s.readClient()
	s.run()
	stop()
	cancel()
	client.Close()
	if s.up != nil {
		s.up.conn.Close()
	}
	r.mu.Lock()
	r.streams--
	r.mu.Unlock()
}

// run serves until the guest has closed and has all its answers, nothing has
// happened for Config.Idle, or either side breaks the framing.
func (s *stream) run() {
	timer := time.NewTimer(s.r.cfg.Idle)
	defer timer.Stop()
	open := true
	for open || len(s.pending) > 0 {
		queries := s.fromClient
		if !open || len(s.pending) >= maxStreamQueries || s.bytes >= maxStreamBytes {
			queries = nil
		}
		timer.Reset(time.Until(s.wake()))
		select {
		case <-s.ctx.Done():
			return
		case m, ok := <-queries:
			if !ok {
				open = false
				continue
			}
			if !isQuery(m) {
				return
			}
			s.lastSeen = time.Now()
			s.accept(m)
		case e := <-s.fromUpstream:
			if !s.upstreamEvent(e) {
				return
			}
		case <-timer.C:
			if len(s.pending) == 0 {
				if time.Since(s.lastSeen) >= s.r.cfg.Idle {
					return
				}
				continue
			}
			if !s.expire(time.Now()) {
				return
			}
		}
	}
}

// wake is when to look at the clock again.
func (s *stream) wake() time.Time {
	if len(s.pending) == 0 {
		return s.lastSeen.Add(s.r.cfg.Idle)
	}
	at := s.pending[s.order[0]].deadline
	if s.up != nil && s.another() {
		if silent := s.up.asked.Add(s.r.cfg.Retry); silent.Before(at) {
			at = silent
		}
	}
	return at
}

// another reports whether there is a nameserver left to go to if the present
// one fails.
func (s *stream) another() bool {
	for _, srv := range s.servers {
		if srv != s.up.srv && !slices.Contains(s.tried, srv) {
			return true
		}
	}
	return false
}

// accept takes a query from the guest and sends it on, now or when there is a
// connection.
func (s *stream) accept(m []byte) {
	for {
		if _, taken := s.pending[s.nextID]; !taken {
			break
		}
		s.nextID++
	}
	q := &streamQuery{
		message:  m,
		id:       binary.BigEndian.Uint16(m),
		deadline: time.Now().Add(s.r.cfg.Timeout),
	}
	binary.BigEndian.PutUint16(m, s.nextID)
	s.pending[s.nextID] = q
	s.order = append(s.order, s.nextID)
	s.bytes += len(m)
	s.nextID++
	switch {
	case s.up != nil:
		if len(s.order) == 1 {
			s.up.asked = time.Now()
		}
		s.forward(q)
	case !s.dialing:
		s.connect()
	}
}

// forward writes a query upstream. If that fails the reader finds out too, and
// its event moves the query to another nameserver.
func (s *stream) forward(q *streamQuery) {
	s.up.conn.SetWriteDeadline(time.Now().Add(s.r.cfg.Retry))
	if err := writeMessage(s.up.conn, q.message); err != nil {
		s.up.conn.Close()
	}
}

// connect looks for a nameserver among those not tried since the last answer.
func (s *stream) connect() {
	if len(s.tried) == 0 {
		s.servers = nil
		if servers, err := s.r.nameservers(); err == nil {
			s.servers = s.r.preferredTCP(servers)
		}
	}
	left := slices.DeleteFunc(slices.Clone(s.servers), func(srv *server) bool {
		return slices.Contains(s.tried, srv)
	})
	s.dialing = true
	s.r.running.Add(1)
	go func() {
		defer s.r.running.Done()
		d := s.r.dialFirst(s.ctx, left)
		select {
		case s.fromUpstream <- event{dialed: &d, err: d.err}:
		case <-s.ctx.Done():
			if d.conn != nil {
				d.conn.Close()
			}
		}
	}()
}

// upstreamEvent reports whether the stream can go on.
func (s *stream) upstreamEvent(e event) bool {
	switch {
	case e.dialed != nil && e.err != nil:
		s.dialing = false
		return s.failAll()
	case e.dialed != nil:
		s.dialing = false
		s.tried = append(s.tried, e.dialed.failed...)
		s.up = &upstream{conn: e.dialed.conn, srv: e.dialed.srv, asked: time.Now()}
		s.r.running.Add(1)
		go s.readUpstream(s.up)
		up := s.up
		for _, id := range s.order {
			if s.up == up {
				s.forward(s.pending[id])
			}
		}
		return true
	case e.up != s.up:
		return true // the last words of a connection given up
	case e.err != nil:
		s.leave(s.up.answers == 0 && len(s.pending) > 0, e.err.Error())
		return true
	}
	return s.answer(e.message)
}

// answer passes an answer to the guest, if it is one to a query of the guest's.
func (s *stream) answer(m []byte) bool {
	if len(m) < headerLen {
		return true
	}
	id := binary.BigEndian.Uint16(m)
	q := s.pending[id]
	if q == nil || !answers(m, q.message) {
		return true
	}
	now := time.Now()
	s.r.mu.Lock()
	s.up.srv.tcp.answer(s.r.sinceStart())
	s.r.mu.Unlock()
	s.up.answers++
	s.up.asked = now
	s.tried = nil
	s.lastSeen = now
	s.forget(id)
	binary.BigEndian.PutUint16(m, q.id)
	return s.toClient(m)
}

func (s *stream) forget(id uint16) {
	s.bytes -= len(s.pending[id].message)
	delete(s.pending, id)
	s.order = slices.DeleteFunc(s.order, func(other uint16) bool { return other == id })
}

func (s *stream) toClient(m []byte) bool {
	s.client.SetWriteDeadline(time.Now().Add(s.r.cfg.Idle))
	return writeMessage(s.client, m) == nil
}

// leave gives the present connection up and, if queries wait, looks for
// another. A nameserver that failed is not asked again before the next answer;
// one that merely closed a connection it had used is (RFC 7766, section 6.2.4).
func (s *stream) leave(failed bool, why string) {
	srv := s.up.srv
	s.up.conn.Close()
	s.up = nil
	if failed {
		s.tried = append(s.tried, srv)
		s.r.demoteTCP(srv, why)
	}
	if len(s.pending) > 0 {
		s.connect()
	}
}

// expire answers the queries whose time is over, and leaves a nameserver that
// has been silent for Config.Retry if there is another. A connection on which
// nothing came for a query's whole time is of no use to the next one.
func (s *stream) expire(now time.Time) bool {
	silent := s.up != nil && s.up.asked.Add(s.r.cfg.Retry).Before(now)
	for len(s.order) > 0 {
		id := s.order[0]
		q := s.pending[id]
		if now.Before(q.deadline) {
			break
		}
		if !s.fail(id) {
			return false
		}
	}
	if silent && len(s.order) == 0 {
		s.leave(true, "no answer")
		s.tried = nil
		return true
	}
	if len(s.order) > 0 && s.up != nil && s.another() && !now.Before(s.up.asked.Add(s.r.cfg.Retry)) {
		s.leave(true, "no answer")
	}
	return true
}

func (s *stream) failAll() bool {
	s.tried = nil
	for len(s.order) > 0 {
		if !s.fail(s.order[0]) {
			return false
		}
	}
	return true
}

func (s *stream) fail(id uint16) bool {
	q := s.pending[id]
	s.forget(id)
	s.lastSeen = time.Now()
	binary.BigEndian.PutUint16(q.message, q.id)
	return s.toClient(servFail(q.message))
}

func (s *stream) readClient() {
	defer s.r.running.Done()
	defer close(s.fromClient)
	in := bufio.NewReaderSize(s.client, 4<<10)
	for {
		m, err := readMessage(in)
		if err != nil {
			return
		}
		select {
		case s.fromClient <- m:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *stream) readUpstream(up *upstream) {
	defer s.r.running.Done()
	in := bufio.NewReaderSize(up.conn, 4<<10)
	for {
		m, err := readMessage(in)
		select {
		case s.fromUpstream <- event{up: up, message: m, err: err}:
		case <-s.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}
