package api

import (
	"context"
	"io"
	"net"
	"slices"
	"time"
)

// conn is a client's connection, for one request.
type conn struct {
	*net.UnixConn
	server  *Server
	waiting bool // guarded by server.mu; for the request
	streams bool // guarded by server.mu; its response continues until the client ends it
}

func (c *conn) serve(ctx context.Context) {
	defer c.end()
	s := c.server
	c.SetReadDeadline(time.Now().Add(s.patience))
	var reply []byte
	if err := s.file.checkPeer(c.UnixConn); err != nil {
		// Logged once, so that a guest that can reach the file cannot fill the log.
		s.warn.Do(func() { s.log.Warn("refused a client", "socket", s.file.path, "error", err) })
		reply = s.refuse(err)
	} else {
		reply = s.reply(c, ctx)
	}
	c.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := c.Write(reply); err != nil {
		return
	}
	// If bytes are unread when the connection is closed, the client gets ECONNRESET and may
	// lose the reply. So let no more in, and read the rest.
	c.CloseWrite()
	c.CloseRead()
	io.Copy(io.Discard, c)
}

// received marks the request as received. It returns false if the request must not be
// executed because the connection has been closed meanwhile.
func (c *conn) received() bool {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	waiting := c.waiting
	c.waiting = false
	return waiting
}

// abort closes the connection from another goroutine, or ends its stream as the client would.
// server.mu is held.
func (c *conn) abort() {
	c.waiting = false
	if c.streams {
		c.CloseRead()
		c.SetWriteDeadline(time.Now().Add(streamFarewell))
		return
	}
	c.Close()
}

func (c *conn) end() {
	s := c.server
	c.Close()
	s.mu.Lock()
	s.conns = slices.DeleteFunc(s.conns, func(other *conn) bool { return other == c })
	s.mu.Unlock()
	<-s.slots
}
