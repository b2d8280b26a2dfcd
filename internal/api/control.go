package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"
)

const (
	// maxMessage is the least size in bytes of a request that is too large.
	maxMessage = 4096
	// garbagePatience is how long reading continues after bytes that are not JSON: the
	// reply depends on whether they become too large.
	garbagePatience = 100 * time.Millisecond
)

var (
	errTooLarge = errors.New("too large message")
	errNoJSON   = errors.New("cannot parse JSON")
)

// replyControl reads a request of the control socket and returns the reply.
func (c *conn) replyControl(ctx context.Context) []byte {
	message, err := c.readMessage()
	switch {
	case !c.received():
		return nil
	case err != nil:
		return failure(err.Error(), "")
	}
	return c.server.execute(ctx, message)
}

// refuseControl is the reply to clients that are not permitted.
func refuseControl(err error) []byte { return failure("permission denied", err.Error()) }

// readMessage reads until a JSON value is complete. It may arrive in pieces, and
// the client need not shut down its side; what follows the value is ignored.
func (c *conn) readMessage() (json.RawMessage, error) {
	buf := make([]byte, maxMessage)
	garbage := false
	for n := 0; ; {
		m, readErr := c.Read(buf[n:])
		if n += m; n == len(buf) {
			return nil, errTooLarge
		}
		var message json.RawMessage
		err := json.NewDecoder(bytes.NewReader(buf[:n])).Decode(&message)
		switch {
		case err == nil:
			return message, nil
		case readErr != nil:
			return nil, errNoJSON
		case garbage || err == io.EOF || err == io.ErrUnexpectedEOF:
			continue // more may follow
		}
		garbage = true
		c.SetReadDeadline(time.Now().Add(garbagePatience))
	}
}

// failure makes the contract's error. Callers compare desc; cause is our addition.
func failure(text, cause string) []byte {
	return encode(errorDocument{&Error{Desc: "bad request: " + text, Cause: cause}})
}

// success is {"return":v}.
func success(v any) []byte {
	return encode(struct {
		Return any `json:"return"`
	}{v})
}
