package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	maxHead = 8 << 10 // bytes of a request's head
	maxBody = 1 << 20 // bytes of a request's body: some thousand forwards
)

// Status lines of responses.
const (
	statusOK            = "200 OK"
	statusCreated       = "201 Created"
	statusNoContent     = "204 No Content"
	statusBadRequest    = "400 Bad Request"
	statusForbidden     = "403 Forbidden"
	statusNotFound      = "404 Not Found"
	statusBadMethod     = "405 Method Not Allowed"
	statusConflict      = "409 Conflict"
	statusNoLength      = "411 Length Required"
	statusBodyTooLarge  = "413 Content Too Large"
	statusHeadTooLarge  = "431 Request Header Fields Too Large"
	statusInternalError = "500 Internal Server Error"
	statusBadVersion    = "505 HTTP Version Not Supported"
)

// request is an HTTP request.
type request struct {
	method string
	url    *url.URL
	body   []byte
}

// response is an HTTP response.
type response struct {
	status   string
	kind     string // content type, empty without a body
	body     []byte
	location string                                 // of what was created
	allow    string                                 // methods, with statusBadMethod
	stream   func(context.Context, io.Writer) error // writes the body until ctx ends; nil: none
}

// requestError is an error of the request itself.
type requestError struct {
	status string
	text   string
}

func (e *requestError) Error() string { return e.text }

// replyHTTP reads a request and returns the response, or nothing if the client
// went away or took too long.
func (c *conn) replyHTTP(ctx context.Context) []byte {
	req, err := readRequest(c)
	var bad *requestError
	switch {
	case !c.received():
		return nil
	case errors.As(err, &bad):
		return problem(bad.status, bad).encode("")
	case err != nil:
		return nil
	}
	r := c.server.route(ctx, req)
	if r.stream != nil && req.method != "HEAD" {
		return c.stream(ctx, r)
	}
	return r.encode(req.method)
}

// refuseHTTP is the response to clients that are not permitted.
func refuseHTTP(err error) []byte { return problem(statusForbidden, err).encode("") }

// readRequest reads an HTTP/1.x request (RFC 9112) whose body, if any, has a
// Content-Length. Errors are *requestError, or those of reading.
func readRequest(c io.ReadWriter) (*request, error) {
	limited := &io.LimitedReader{R: c, N: maxHead}
	r := bufio.NewReader(limited)
	req, header, err := readHead(r)
	if err != nil && limited.N == 0 {
		err = &requestError{statusHeadTooLarge, fmt.Sprintf("the request's head is longer than %d bytes", maxHead)}
	}
	if err != nil {
		return nil, err
	}
	length, err := bodyLength(header)
	if err != nil {
		return nil, err
	}
	if strings.EqualFold(header.Get("Expect"), "100-continue") {
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	limited.N = maxBody
	req.body = make([]byte, length)
	_, err = io.ReadFull(r, req.body)
	return req, err
}

func readHead(r *bufio.Reader) (*request, textproto.MIMEHeader, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, nil, err
	}
	req, err := parseRequestLine(strings.TrimRight(line, "\r\n"))
	if err != nil {
		return nil, nil, err
	}
	if b, err := r.Peek(1); err == nil && (b[0] == ' ' || b[0] == '\t') { // RFC 9112, section 2.2
		return nil, nil, &requestError{statusBadRequest, "the first line of the header begins with white space"}
	}
	header, err := textproto.NewReader(r).ReadMIMEHeader()
	var malformed textproto.ProtocolError
	if errors.As(err, &malformed) {
		err = &requestError{statusBadRequest, malformed.Error()}
	}
	return req, header, err
}

func parseRequestLine(line string) (*request, error) {
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	switch {
	case !strings.HasPrefix(version, "HTTP/"):
		return nil, &requestError{statusBadRequest, "not an HTTP request"}
	case !strings.HasPrefix(version, "HTTP/1."):
		return nil, &requestError{statusBadVersion, "this server supports HTTP/1.1 only"}
	}
	u, err := url.ParseRequestURI(target)
	if err != nil || !strings.HasPrefix(u.Path, "/") {
		return nil, &requestError{statusBadRequest, "the request's target is not a path"}
	}
	return &request{method: method, url: u}, nil
}

// bodyLength is the body's length in bytes as the header declares it.
func bodyLength(header textproto.MIMEHeader) (int, error) {
	if header.Get("Transfer-Encoding") != "" {
		return 0, &requestError{statusNoLength, "a body must have a Content-Length"}
	}
	lengths := header.Values("Content-Length")
	if len(lengths) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseUint(lengths[0], 10, 63)
	switch {
	case err != nil || len(lengths) > 1:
		return 0, &requestError{statusBadRequest, "Content-Length is not one number"}
	case n > maxBody:
		return 0, &requestError{statusBodyTooLarge, fmt.Sprintf("the body is longer than %d bytes", maxBody)}
	}
	return int(n), nil
}

// encode writes the response to a request with the given method.
func (r *response) encode(method string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %s\r\nConnection: close\r\n", r.status)
	fmt.Fprintf(&b, "Date: %s\r\n", time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"))
	for _, field := range [][2]string{{"Content-Type", r.kind}, {"Location", r.location}, {"Allow", r.allow}} {
		if field[1] != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", field[0], field[1])
		}
	}
	if r.status != statusNoContent && r.stream == nil {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.body))
	}
	b.WriteString("\r\n")
	if method != "HEAD" {
		b.Write(r.body)
	}
	return b.Bytes()
}
