package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxConns is the number of connections at once. Callers have one, now
	// and then; the bound is there for those gone wrong.
	maxConns = 64
	// patience is how long a request may take to arrive.
	patience = 10 * time.Second
	// keepAlive is how long an HTTP connection may rest between requests.
	keepAlive = 60 * time.Second
	// writeTimeout is how long a client may take to read a reply.
	writeTimeout = 5 * time.Second
	// lastWords is the same when the server closes.
	lastWords = 100 * time.Millisecond
	// tidyEvery is the number of connections after which memory is tidied up.
	tidyEvery = 100
	// acceptPause is how long to rest when the process is out of descriptors.
	acceptPause = 100 * time.Millisecond
)

// Server answers on one socket.
type Server struct {
	file   *socketFile
	cfg    Config
	log    *slog.Logger
	handle func(context.Context, *conn)
	refuse func(*conn, error)

	patience, keepAlive time.Duration // the constants, but for tests

	slots chan struct{} // one element per connection
	ended sync.WaitGroup
	stop  sync.Once
	done  chan struct{} // closed by shut
	warn  sync.Once

	talks   atomic.Uint64 // conversations with clients that were not refused
	buffers sync.Pool     // *[maxRequest]byte of the control socket

	mu     sync.Mutex
	conns  map[*conn]struct{} // guarded by mu
	last   uint64             // guarded by mu; the number of the newest connection
	closed bool               // guarded by mu
	full   bool               // guarded by mu; a client waits for somebody to evict
}

// ListenControl makes the control socket at path: slirp4netns's JSON, one
// request per connection. A path of 108 bytes or more is ErrPathTooLong.
func ListenControl(path string, cfg Config) (*Server, error) {
	s, err := newServer(path, cfg)
	if err != nil {
		return nil, err
	}
	s.handle, s.refuse = s.control, refuseControl
	s.buffers.New = func() any { return new([maxRequest]byte) }
	return s, nil
}

// ListenHTTP makes the HTTP socket at path.
func ListenHTTP(path string, cfg Config) (*Server, error) {
	s, err := newServer(path, cfg)
	if err != nil {
		return nil, err
	}
	s.handle, s.refuse = s.http, refuseHTTP
	return s, nil
}

func newServer(path string, cfg Config) (*Server, error) {
	file, err := bind(path)
	if err != nil {
		return nil, err
	}
	s := &Server{
		file:  file,
		cfg:   cfg,
		log:   cfg.Logger,
		slots: make(chan struct{}, maxConns),
		conns: make(map[*conn]struct{}),
		done:  make(chan struct{}),

		patience:  patience,
		keepAlive: keepAlive,
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s, nil
}

// Serve answers until ctx ends or Close is called, and returns nil then; any
// other end is an error. Requests under way are ended with it.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.Close()
	defer cancel() // first, so that what Close waits for ends soon
	defer context.AfterFunc(ctx, func() { s.shut() })()
	failing := false
	for {
		nc, err := s.file.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			// Out of descriptors or memory: others will give some back.
			if !failing {
				s.log.Warn("cannot accept a client", "socket", s.file.path, "error", err)
				failing = true
			}
			select {
			case <-time.After(acceptPause):
			case <-s.done:
			}
			continue
		}
		failing = false
		if !s.start(ctx, nc) {
			return nil
		}
	}
}

// start gives a connection its goroutine, once there is room for it. It returns
// false when the server has closed.
func (s *Server) start(ctx context.Context, nc *net.UnixConn) bool {
	select {
	case s.slots <- struct{}{}:
	default:
		s.mu.Lock()
		s.evict()
		s.mu.Unlock()
		select {
		case s.slots <- struct{}{}:
		case <-s.done:
			nc.Close()
			return false
		}
	}
	c := &conn{UnixConn: nc, server: s}
	s.mu.Lock()
	s.full = false
	if s.closed {
		s.mu.Unlock()
		nc.Close()
		<-s.slots
		return false
	}
	s.last++
	c.number = s.last
	s.conns[c] = struct{}{}
	s.ended.Add(1)
	s.mu.Unlock()
	go c.serve(ctx)
	return true
}

// evict ends the connection that has kept us waiting longest, or else the next
// that comes to that. s.mu is held.
func (s *Server) evict() {
	var oldest *conn
	for c := range s.conns {
		if c.waiting && !c.evicted && (oldest == nil || c.number < oldest.number) {
			oldest = c
		}
	}
	s.full = oldest == nil
	if oldest != nil {
		oldest.evict()
	}
}

// shut stops listening and lets go of everyone who keeps us waiting.
func (s *Server) shut() {
	s.stop.Do(func() {
		close(s.done)
		s.file.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closed = true
		for c := range s.conns {
			c.evict()
			c.SetWriteDeadline(time.Now().Add(lastWords))
		}
	})
}

// Close removes the socket file and ends every connection. It returns when all
// have ended, and may be called more than once and without Serve.
func (s *Server) Close() error {
	s.shut()
	s.ended.Wait()
	return nil
}

// conn is one client's connection.
type conn struct {
	*net.UnixConn
	server *Server
	number uint64

	waiting bool // guarded by server.mu; for the client to say something
	evicted bool // guarded by server.mu; reads fail from now on
}

func (c *conn) serve(ctx context.Context) {
	s := c.server
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		<-s.slots
		s.ended.Done()
	}()
	if err := s.file.checkPeer(c.UnixConn); err != nil {
		// Once, or else a guest that can reach the file could fill the log.
		s.warn.Do(func() { s.log.Warn("refused a client", "socket", s.file.path, "error", err) })
		s.refuse(c, err)
		return
	}
	s.handle(ctx, c)
	s.tidy()
}

// tidy collects the garbage of many short conversations, some 4 kB each, before
// the heap has doubled for it and the process stays that large: callers publish
// a range of ports by one conversation for each.
func (s *Server) tidy() {
	if s.talks.Add(1)%tidyEvery == 0 {
		runtime.GC()
	}
}

// await allows the client d to say what comes next. Until work is called the
// connection may be evicted.
func (c *conn) await(d time.Duration) {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.waiting = true
	if !c.evicted {
		c.SetReadDeadline(time.Now().Add(d))
	}
	if c.server.full {
		c.server.evict()
	}
}

// hurry shortens what is left of await's time to d.
func (c *conn) hurry(d time.Duration) {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if !c.evicted {
		c.SetReadDeadline(time.Now().Add(d))
	}
}

// work says that the request is there.
func (c *conn) work() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.waiting = false
}

// send writes to the client, for a limited time.
func (c *conn) send(b []byte) error {
	c.server.mu.Lock()
	limit := writeTimeout
	if c.server.closed {
		limit = lastWords
	}
	c.SetWriteDeadline(time.Now().Add(limit))
	c.server.mu.Unlock()
	_, err := c.Write(b)
	return err
}

// evict makes reads fail now and later. server.mu is held.
func (c *conn) evict() {
	c.evicted = true
	c.SetReadDeadline(time.Unix(1, 0))
}

// finish ends the connection so that the client reads all of the reply, and then
// its end. Closing a socket with unread bytes would give the client ECONNRESET
// instead: so nothing more is let in, and what is in is thrown away.
func (c *conn) finish() {
	c.CloseWrite()
	c.CloseRead()
	c.SetReadDeadline(time.Now().Add(time.Second))
	var waste [512]byte
	for {
		if _, err := c.Read(waste[:]); err != nil {
			return
		}
	}
}
