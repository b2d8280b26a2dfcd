package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"epiphyte/portfwd"
)

// maxReply bounds what a client reads of one reply, in bytes.
const maxReply = 64 << 20

// clientTimeout is how long a request may take: publishing waits up to 2 s for
// a port that is just being released, and a range may hold many.
const clientTimeout = 30 * time.Second

// ErrNeedsHTTP is returned for what the control socket has no words for.
var ErrNeedsHTTP = errors.New("the control socket cannot do that; the HTTP socket can")

// Client speaks to a running program by one of its sockets. The zero value has
// none. By the control socket it publishes ports of slirp4netns as well, which
// has no flows or counters to show.
type Client struct {
	Control string // path of the control socket; used if HTTP is empty
	HTTP    string // path of the HTTP socket
}

// RemoteError is an error that the program replied with.
type RemoteError struct {
	Desc  string // what went wrong
	Cause string // why, may be empty
}

func (e *RemoteError) Error() string {
	if e.Cause == "" {
		return e.Desc
	}
	return e.Desc + " (" + e.Cause + ")"
}

// Ports lists the published ports, by id.
func (c *Client) Ports(ctx context.Context) ([]Port, error) {
	if c.HTTP != "" {
		var doc portsDocument
		err := c.request(ctx, "GET", "/v1/ports", nil, &doc)
		return doc.Ports, err
	}
	var r struct {
		Return  *struct{ Entries []Port }
		Entries []Port
	}
	if err := c.execute(ctx, "list_hostfwd", nil, &r); err != nil {
		return nil, err
	}
	if r.Return != nil {
		return r.Return.Entries, nil
	}
	return r.Entries, nil
}

// Publish publishes the ports of a rule, all or none. By the control socket,
// each port of a range becomes one of its own. The ports are as the program
// reports them; the control socket reports nothing but ids.
func (c *Client) Publish(ctx context.Context, r portfwd.Rule) ([]Port, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if c.HTTP == "" {
		return c.publishSingly(ctx, r)
	}
	j := ruleJSON{
		Proto:       r.Proto,
		Interface:   r.Interface,
		HostPort:    r.HostPort,
		HostPortEnd: r.HostPortEnd,
		GuestPort:   r.GuestPort,
	}
	if r.Host.IsValid() {
		j.HostAddr = r.Host.String()
	}
	if r.Guest.IsValid() {
		j.GuestAddr = r.Guest.String()
	}
	var p Port
	if err := c.request(ctx, "POST", "/v1/ports", encode(j), &p); err != nil {
		return nil, err
	}
	return []Port{p}, nil
}

func (c *Client) publishSingly(ctx context.Context, r portfwd.Rule) (done []Port, err error) {
	if r.Interface != "" {
		return nil, fmt.Errorf("listen on interface %s: %w", r.Interface, ErrNeedsHTTP)
	}
	if r.Proto == "" {
		r.Proto = portfwd.TCP
	}
	if r.GuestPort == 0 {
		r.GuestPort = r.HostPort
	}
	n := r.Ports()
	p := portOf(portfwd.Entry{Rule: r})
	p.HostPortEnd = 0
	for range n {
		type add Port
		var reply struct{ Return struct{ ID int } }
		if err := c.execute(ctx, "add_hostfwd", add(p), &reply); err != nil {
			for _, d := range done {
				err = errors.Join(err, c.Unpublish(context.WithoutCancel(ctx), d.ID))
			}
			return nil, err
		}
		p.ID = reply.Return.ID
		done = append(done, p)
		p.HostPort, p.GuestPort = p.HostPort+1, p.GuestPort+1
	}
	return done, nil
}

// Unpublish removes a published port.
func (c *Client) Unpublish(ctx context.Context, id int) error {
	if c.HTTP != "" {
		return c.request(ctx, "DELETE", "/v1/ports/"+strconv.Itoa(id), nil, nil)
	}
	return c.execute(ctx, "remove_hostfwd", map[string]int{"id": id}, nil)
}

// Flows lists the flows of the moment.
func (c *Client) Flows(ctx context.Context) ([]Flow, error) {
	var doc flowsDocument
	if err := c.read(ctx, FlowsDocument, &doc); err != nil {
		return nil, err
	}
	flows := make([]Flow, len(doc.Flows))
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	for i, f := range doc.Flows {
		flows[i] = Flow{f.Proto, f.Guest, f.Remote, f.Host, f.State, f.InBytes, f.OutBytes, seconds(f.Age), seconds(f.Idle)}
	}
	return flows, nil
}

// Names of what Document reads.
const (
	FlowsDocument = "flows"
	StatsDocument = "stats"
)

// Document reads FlowsDocument or StatsDocument as docs/openapi.yaml describes
// it.
func (c *Client) Document(ctx context.Context, name string) (json.RawMessage, error) {
	var doc json.RawMessage
	err := c.read(ctx, name, &doc)
	return doc, err
}

func (c *Client) read(ctx context.Context, name string, doc any) error {
	if c.HTTP != "" {
		return c.request(ctx, "GET", "/v1/"+name, nil, doc)
	}
	command := map[string]string{FlowsDocument: listFlows, StatsDocument: showStats}[name]
	r := struct{ Return any }{doc}
	return c.execute(ctx, command, nil, &r)
}

// dial connects; the connection ends with ctx, or after clientTimeout.
func dial(ctx context.Context, path string) (c net.Conn, done func(), err error) {
	if c, err = new(net.Dialer).DialContext(ctx, "unix", path); err != nil {
		return nil, nil, err
	}
	c.SetDeadline(time.Now().Add(clientTimeout))
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	return c, func() { stop(); c.Close() }, nil
}

// execute speaks slirp4netns's JSON: one request, one reply.
func (c *Client) execute(ctx context.Context, command string, arguments, reply any) error {
	if c.Control == "" {
		return errors.New("no socket to ask by")
	}
	conn, done, err := dial(ctx, c.Control)
	if err != nil {
		return err
	}
	defer done()
	_, err = conn.Write(encode(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments}))
	if err != nil {
		return err
	}
	conn.(*net.UnixConn).CloseWrite()
	b, err := io.ReadAll(io.LimitReader(conn, maxReply))
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	var fault struct{ Error *RemoteError }
	if err := json.Unmarshal(b, &fault); err != nil {
		return fmt.Errorf("read reply: %w", err)
	}
	if fault.Error != nil {
		return fault.Error
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(b, reply)
}

// request speaks HTTP: one request on a connection of its own.
func (c *Client) request(ctx context.Context, method, path string, body []byte, reply any) error {
	conn, done, err := dial(ctx, c.HTTP)
	if err != nil {
		return err
	}
	defer done()
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
		method, path, kindJSON, len(body))
	if _, err := conn.Write(append([]byte(head), body...)); err != nil {
		return err
	}
	status, b, err := readResponse(bufio.NewReader(conn))
	switch {
	case err != nil:
		return errors.Join(ctx.Err(), fmt.Errorf("read reply: %w", err))
	case status >= 300:
		var doc problemDocument
		if json.Unmarshal(b, &doc) != nil || doc.Error.Desc == "" {
			return &RemoteError{Desc: fmt.Sprintf("HTTP status %d", status)}
		}
		return &RemoteError{Desc: doc.Error.Desc, Cause: doc.Error.Cause}
	case reply == nil:
		return nil
	}
	return json.Unmarshal(b, reply)
}
