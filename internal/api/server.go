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
	// maxConns is the number of connections at once. Callers need one now and
	// then; the bound is for those that leak them.
	maxConns = 64
	// patience is how long a request may take to arrive.
	patience = 10 * time.Second
	// writeTimeout is how long a client may take to read a reply.
	writeTimeout = 5 * time.Second
	// acceptPause is how long to wait when the process is out of descriptors.
	acceptPause = 100 * time.Millisecond
)

// replyFunc reads a request and returns the reply, empty for none.
type replyFunc func(*conn, context.Context) []byte

// Server answers on one socket.
type Server struct {
	file   *socketFile
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

// ListenControl makes the control socket at path: slirp4netns's JSON. A path of
// 108 bytes or more is ErrPathTooLong. A predecessor on its way out is waited for,
// until ctx ends.
func ListenControl(ctx context.Context, path string, cfg Config) (*Server, error) {
	return newServer(ctx, path, cfg, (*conn).replyControl, refuseControl)
}

// ListenHTTP makes the HTTP socket at path. A path of 108 bytes or more is
// ErrPathTooLong. A predecessor is waited for as by ListenControl.
func ListenHTTP(ctx context.Context, path string, cfg Config) (*Server, error) {
	return newServer(ctx, path, cfg, (*conn).replyHTTP, refuseHTTP)
}

func newServer(ctx context.Context, path string, cfg Config, reply replyFunc, refuse func(error) []byte) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	file, err := listen(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Server{
		file:     file,
		cfg:      cfg,
		log:      cfg.Logger,
		reply:    reply,
		refuse:   refuse,
		patience: patience,
		slots:    make(chan struct{}, maxConns),
		done:     make(chan struct{}),
	}, nil
}

// Serve answers until ctx ends or Close is called, and returns nil then; any
// other end is an error. Requests being executed are canceled.
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
