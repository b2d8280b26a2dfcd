package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

const (
	maxHead = 8 << 10  // bytes of a request's head
	maxBody = 64 << 10 // bytes of a request's body
)

// request is one HTTP request.
type request struct {
	method string
	path   string // as sent: no route needs percent-encoding
	query  string
	body   []byte
	// last is set where the client, or what it sent, wants the connection
	// closed after the response.
	last bool
}

// response is what is answered to it.
type response struct {
	status   int
	kind     string // content type, empty without a body
	body     []byte
	location string // of what was created
	allow    string // methods, where another was used
}

// httpError is a fault of the request itself.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string { return e.text }

// http is one connection: requests and responses by turns.
func (s *Server) http(ctx context.Context, c *conn) {
	r := bufio.NewReader(c)
	for limit := s.patience; ; limit = s.keepAlive {
		c.await(limit)
		req, err := readRequest(r, func() error { return c.send([]byte("HTTP/1.1 100 Continue\r\n\r\n")) })
		c.work()
		if err != nil {
			var fault *httpError
			if errors.As(err, &fault) && c.send(problem(fault.status, fault).bytes(&request{last: true})) == nil {
				c.finish()
			}
			return
		}
		if c.send(s.route(ctx, req).bytes(req)) != nil {
			return
		}
		if req.last || ctx.Err() != nil {
			c.finish()
			return
		}
	}
}

// readRequest reads one HTTP/1.x request (RFC 9112). proceed is called where the
// client waits to be told to send the body. Errors are *httpError, or those of
// reading and of proceed.
func readRequest(r *bufio.Reader, proceed func() error) (*request, error) {
	head := headReader{r: r, left: maxHead}
	line, err := head.line()
	if err == nil && line == "" {
		line, err = head.line() // RFC 9112, 2.2: one empty line is forgiven
	}
	if err != nil {
		return nil, err
	}
	req, err := parseRequestLine(line)
	if err != nil {
		return nil, err
	}
	length, expects, err := head.fields(req)
	if err != nil {
		return nil, err
	}
	if length == 0 {
		return req, nil
	}
	if expects {
		if err := proceed(); err != nil {
			return nil, err
		}
	}
	req.body = make([]byte, length)
	_, err = io.ReadFull(r, req.body)
	return req, err
}

func parseRequestLine(line string) (*request, error) {
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	major, minor, ok := strings.Cut(version, ".")
	if method == "" || !ok || !strings.HasPrefix(version, "HTTP/") || len(minor) != 1 {
		return nil, &httpError{400, "not an HTTP request"}
	}
	if major != "HTTP/1" {
		return nil, &httpError{505, "only HTTP/1.1 is spoken here"}
	}
	// The absolute form is what a client sends that takes us for a proxy.
	if _, after, ok := strings.Cut(target, "://"); ok {
		_, path, _ := strings.Cut(after, "/")
		target = "/" + path
	}
	if !strings.HasPrefix(target, "/") {
		return nil, &httpError{400, "the target of the request is not a path"}
	}
	req := &request{method: method, last: minor == "0"}
	req.path, req.query, _ = strings.Cut(target, "?")
	return req, nil
}

// headReader reads the lines of a request's head, up to a limit.
type headReader struct {
	r    *bufio.Reader
	left int // bytes that the head may still have
}

// line is the next line without its end.
func (h *headReader) line() (string, error) {
	var line []byte
	for {
		part, err := h.r.ReadSlice('\n')
		if h.left -= len(part); h.left < 0 {
			return "", &httpError{431, fmt.Sprintf("the head of the request is longer than %d bytes", maxHead)}
		}
		line = append(line, part...)
		switch {
		case err == nil:
			line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
			if bytes.ContainsAny(line, "\r\x00") {
				return "", &httpError{400, "control characters in the head of the request"}
			}
			return string(line), nil
		case err != bufio.ErrBufferFull:
			return "", err
		}
	}
}

// fields reads the header fields, of which it needs those about the body and
// the connection.
func (h *headReader) fields(req *request) (length int, expects bool, err error) {
	sized := false
	for {
		line, err := h.line()
		if err != nil {
			return 0, false, err
		}
		if line == "" {
			return length, expects, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return 0, false, &httpError{400, "a header field has no name"}
		}
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "content-length":
			n, err := strconv.ParseUint(value, 10, 63)
			switch {
			case err != nil || sized && int(n) != length:
				return 0, false, &httpError{400, "Content-Length is not a number"}
			case n > maxBody:
				return 0, false, &httpError{413, fmt.Sprintf("the body is longer than %d bytes", maxBody)}
			}
			length, sized = int(n), true
		case "transfer-encoding":
			return 0, false, &httpError{411, "a body needs a Content-Length here"}
		case "connection":
			for option := range strings.SplitSeq(strings.ToLower(value), ",") {
				switch strings.Trim(option, " \t") {
				case "close":
					req.last = true
				case "keep-alive":
					req.last = false
				}
			}
		case "expect":
			expects = strings.EqualFold(value, "100-continue")
		}
	}
}

// bytes writes the response to req.
func (r *response) bytes(req *request) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", r.status, statusText(r.status))
	fmt.Fprintf(&b, "Date: %s\r\n", time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"))
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		}
	}
	field("Content-Type", r.kind)
	field("Location", r.location)
	field("Allow", r.allow)
	field("Cache-Control", "no-store")
	if r.status != 204 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.body))
	}
	if req.last {
		field("Connection", "close")
	}
	b.WriteString("\r\n")
	if req.method != "HEAD" {
		b.Write(r.body)
	}
	return b.Bytes()
}

func statusText(status int) string {
	switch status {
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 204:
		return "No Content"
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 409:
		return "Conflict"
	case 411:
		return "Length Required"
	case 413:
		return "Content Too Large"
	case 431:
		return "Request Header Fields Too Large"
	case 505:
		return "HTTP Version Not Supported"
	}
	return "Internal Server Error"
}

// refuseHTTP answers who may not ask.
func refuseHTTP(c *conn, err error) {
	if c.send(problem(403, err).bytes(&request{last: true})) == nil {
		c.finish()
	}
}
