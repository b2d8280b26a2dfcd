package api

import (
	"context"
	"io"
	"time"
)

// streamFarewell bounds how long a client may take to read the end of a stream when the
// server is being closed.
const streamFarewell = 50 * time.Millisecond

// stream responds with what r.stream writes, until that ends or the client closes its
// direction of the connection or all of it. The result is what is still to be sent.
func (c *conn) stream(ctx context.Context, r *response) []byte {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.server.mu.Lock()
	c.streams = true
	closed := c.server.closed
	c.server.mu.Unlock()
	if closed {
		return nil
	}
	c.SetReadDeadline(time.Time{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		io.Copy(io.Discard, c)
		cancel()
	}()
	w := &headFirst{w: c, head: r.encode("")}
	err := r.stream(ctx, w)
	c.CloseRead()
	<-watched
	if err != nil && !w.begun {
		return problem(statusConflict, err).encode("")
	}
	return nil
}

// headFirst writes a head before the first write.
type headFirst struct {
	w     io.Writer
	head  []byte
	begun bool
}

// Write implements io.Writer.
func (h *headFirst) Write(b []byte) (int, error) {
	if !h.begun {
		h.begun = true
		if _, err := h.w.Write(h.head); err != nil {
			return 0, err
		}
	}
	return h.w.Write(b)
}
