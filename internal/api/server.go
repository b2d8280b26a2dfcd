package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// maxConns bounds the connections at once. Callers need one now and then; the bound is
	// for those that leak them.
	maxConns = 64
	// patience bounds how long a request may take to arrive.
	patience = 10 * time.Second
	// writeTimeout bounds how long a client may take to read a reply.
	writeTimeout = 5 * time.Second
	// acceptPause is how long to wait when the process is out of descriptors.
	acceptPause = 100 * time.Millisecond
)

// replyFunc reads a request and returns the reply, empty for none.
type replyFunc func(*conn, context.Context) []byte

// Server answers on one socket.
type Server struct {
	file   *Socket
	cfg    Config
	log    *slog.Logger
	reply  replyFunc
	refuse func(error) []byte // returns the reply to a client that is not permitted

	patience time.Duration // the constant, except in tests

	slots chan struct{} // one element for each connection
	ended sync.WaitGroup
	done  chan struct{} // closed by stop
	warn  sync.Once

	mu     sync.Mutex
	conns  []*conn // guarded by mu; oldest first
	closed bool    // guarded by mu
}

// ListenControl makes the control socket at path: slirp4netns's JSON. See [Listen].
func ListenControl(ctx context.Context, path string, cfg Config) (*Server, error) {
	f, err := Listen(ctx, path)
	if err != nil {
		return nil, err
	}
	return f.Control(cfg), nil
}

// ListenHTTP makes the HTTP socket at path. See [Listen].
func ListenHTTP(ctx context.Context, path string, cfg Config) (*Server, error) {
	f, err := Listen(ctx, path)
	if err != nil {
		return nil, err
	}
	return f.HTTP(cfg), nil
}

// Control returns a server that speaks slirp4netns's JSON.
func (f *Socket) Control(cfg Config) *Server {
	return newServer(f, cfg, (*conn).replyControl, refuseControl)
}

// HTTP returns a server that speaks HTTP.
func (f *Socket) HTTP(cfg Config) *Server {
	return newServer(f, cfg, (*conn).replyHTTP, refuseHTTP)
}

func newServer(f *Socket, cfg Config, reply replyFunc, refuse func(error) []byte) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Server{
		file:     f,
		cfg:      cfg,
		log:      cfg.Logger,
		reply:    reply,
		refuse:   refuse,
		patience: patience,
		slots:    make(chan struct{}, maxConns),
		done:     make(chan struct{}),
	}
}

// Serve answers until ctx ends or Close is called, and then returns nil; it returns an error
// for any other end. It cancels requests that are being executed.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.Close()
	defer cancel() // first, so that Close need not wait long
	defer context.AfterFunc(ctx, s.stop)()
	failing := false
	for {
		nc, err := s.file.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			// Out of descriptors or memory, which is temporary.
			if !failing {
				s.log.Warn("cannot accept a client", "socket", s.file.path, "error", err)
			}
			failing = true
			select {
			case <-time.After(acceptPause):
			case <-s.done:
			}
			continue
		}
		failing = false
		s.start(ctx, nc)
	}
}

// start serves a connection in a goroutine. At maxConns it closes the oldest
// connection that has not sent its request, or else waits for one to end.
func (s *Server) start(ctx context.Context, nc *net.UnixConn) {
	c := &conn{UnixConn: nc, server: s, waiting: true}
	select {
	case s.slots <- struct{}{}:
	default:
		s.evict()
		select {
		case s.slots <- struct{}{}:
		case <-s.done:
			nc.Close()
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		nc.Close()
		return
	}
	s.conns = append(s.conns, c)
	s.ended.Go(func() { c.serve(ctx) })
}

func (s *Server) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if c.waiting {
			c.abort()
			return
		}
	}
}

// stop stops listening and closes all connections.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.done)
	s.file.Close()
	for _, c := range s.conns {
		c.abort()
	}
}

// Close removes the socket file and closes every connection. It returns when
// their goroutines have ended, and may be called more than once and without
// Serve.
func (s *Server) Close() error {
	s.stop()
	s.ended.Wait()
	return nil
}
