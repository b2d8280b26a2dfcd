package api

import (
	"context"
	"errors"
	"time"
)

const (
	// maxRequest is the size at which a request is too large, in bytes: one
	// less is the longest that the contract allows.
	maxRequest = 4096
	// quiet is how long bytes that cannot become a request are listened to,
	// for more of the same to follow.
	quiet = 100 * time.Millisecond
)

var errTooLarge = errors.New("too large message")

// control is one conversation: a request, a reply.
func (s *Server) control(ctx context.Context, c *conn) {
	buf := s.buffers.Get().(*[maxRequest]byte)
	defer s.buffers.Put(buf)
	msg, err := c.readMessage(buf)
	c.work()
	var r reply
	if err != nil {
		r = failure(err.Error(), "")
	} else {
		r = s.answer(ctx, msg)
	}
	if c.send(r) == nil {
		c.finish()
	}
}

// readMessage reads until a JSON object is complete, or the client has no more
// to say, or takes too long over it: then what has come so far is the message.
// Writes may be split in any way, and the client need not shut down its side.
func (c *conn) readMessage(buf *[maxRequest]byte) ([]byte, error) {
	c.await(c.server.patience)
	var scan scanner
	hurried := false
	for n := 0; ; {
		m, err := c.Read(buf[n:])
		n += m
		if n == len(buf) {
			return nil, errTooLarge
		}
		switch scan.next(buf[n-m : n]) {
		case objectDone:
			return buf[:n], nil
		case noObject:
			// Only an object can be a request.
			if !hurried {
				c.hurry(quiet)
				hurried = true
			}
		}
		if err != nil {
			return buf[:n], nil
		}
	}
}

// refuseControl answers who may not ask.
func refuseControl(c *conn, err error) {
	if c.send(failure("permission denied", err.Error())) == nil {
		c.finish()
	}
}
