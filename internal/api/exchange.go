package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxReply bounds the bytes that a client reads of a reply.
	maxReply = 64 << 20
	// clientTimeout bounds a request. To publish one port takes up to 2 s if it is just
	// being released, and a range has many.
	clientTimeout = 30 * time.Second
)

// execute sends a request to the control socket and decodes the reply.
func (c *Client) execute(ctx context.Context, command string, arguments, reply any) error {
	if c.Control == "" {
		return errors.New("no socket is given")
	}
	b, err := exchange(ctx, c.Control, encode(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments}))
	if err != nil {
		return err
	}
	return decodeReply(b, reply)
}

// request sends a request to the HTTP socket and decodes the response. It leaves
// the status aside, because all errors have an error document.
func (c *Client) request(ctx context.Context, method, path string, body, reply any) error {
	var content []byte
	if body != nil {
		content = encode(body)
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
		method, path, kindJSON, len(content))
	b, err := exchange(ctx, c.HTTP, append([]byte(head), content...))
	if err != nil {
		return err
	}
	b, err = responseBody(b)
	if err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	if len(b) == 0 && reply == nil {
		return nil // No Content
	}
	return decodeReply(b, reply)
}

// exchange sends a request on a connection of its own and reads the reply to its
// end.
func exchange(ctx context.Context, path string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	// A server that stops reading the request has already replied why.
	if _, err := conn.Write(request); err != nil && !errors.Is(err, unix.EPIPE) {
		return nil, errors.Join(ctx.Err(), err)
	}
	conn.(*net.UnixConn).CloseWrite()
	b, err := io.ReadAll(io.LimitReader(conn, maxReply))
	if err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	return b, nil
}

// stream sends a request to the HTTP socket and writes the response to w until it ends. When
// ctx ends, it has the server end it.
func (c *Client) stream(ctx context.Context, path string, w io.Writer) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.HTTP)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.(*net.UnixConn).CloseWrite() })()
	r := textproto.NewReader(bufio.NewReader(conn))
	status, header, err := responseHead(r)
	if err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	if status == statusOK && header.Get("Content-Length") == "" {
		_, err = io.Copy(w, r.R)
		return err
	}
	body, err := io.ReadAll(io.LimitReader(r.R, maxReply))
	if err != nil {
		return err
	}
	return decodeReply(body, nil)
}

// responseHead reads the head of an HTTP response.
func responseHead(r *textproto.Reader) (status string, header textproto.MIMEHeader, err error) {
	line, err := r.ReadLine()
	version, status, _ := strings.Cut(line, " ")
	if err != nil || !strings.HasPrefix(version, "HTTP/1.") {
		return "", nil, errors.New("not an HTTP response")
	}
	header, err = r.ReadMIMEHeader()
	return status, header, err
}

// responseBody is the body of a complete HTTP response.
func responseBody(response []byte) ([]byte, error) {
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(response)))
	_, header, err := responseHead(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.R)
	if err != nil {
		return nil, err
	}
	if length := header.Get("Content-Length"); length != "" && length != strconv.Itoa(len(body)) {
		return nil, io.ErrUnexpectedEOF
	}
	return body, nil
}

// decodeReply decodes a reply into v, unless it is nil or the reply is an error.
func decodeReply(b []byte, v any) error {
	var doc errorDocument
	if err := json.Unmarshal(b, &doc); err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	if doc.Error != nil {
		return doc.Error
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(b, v)
}
