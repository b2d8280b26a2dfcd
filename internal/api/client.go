package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"epiphyte/portfwd"
)

// ErrNeedsHTTP is returned for requests that the control socket's protocol cannot express.
var ErrNeedsHTTP = errors.New("the control socket does not support this, the HTTP socket does")

// Client asks a running program on one of its sockets, of which one must be set. The control
// socket may also be slirp4netns's, which has no flows or counters to show. Errors in replies
// are *Error.
type Client struct {
	Control string // path of the control socket; ignored if HTTP is set
	HTTP    string // path of the HTTP socket
}

// Ports lists the published ports, by id.
func (c *Client) Ports(ctx context.Context) ([]Port, error) {
	if c.HTTP != "" {
		var doc portsDocument
		err := c.request(ctx, "GET", "/v1/ports", nil, &doc)
		return doc.Ports, err
	}
	// slirp4netns sends "entries", but its documentation says "return".
	var reply struct {
		Return  *struct{ Entries []Port }
		Entries []Port
	}
	err := c.execute(ctx, listHostfwd, nil, &reply)
	if reply.Return != nil {
		return reply.Return.Entries, err
	}
	return reply.Entries, err
}

// Publish publishes the ports of a rule, all or none, and returns them as the
// program reports them. The control socket publishes the ports of a range one by
// one and reports nothing but ids.
func (c *Client) Publish(ctx context.Context, r portfwd.Rule) ([]Port, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if r.Proto == "" {
		r.Proto = portfwd.TCP
	}
	if r.GuestPort == 0 {
		r.GuestPort = r.HostPort
	}
	p := portOf(portfwd.Entry{Rule: r})
	if c.HTTP == "" {
		return c.publishSingly(ctx, p, r.Ports())
	}
	var published Port
	if err := c.request(ctx, "POST", "/v1/ports", p, &published); err != nil {
		return nil, err
	}
	return []Port{published}, nil
}

func (c *Client) publishSingly(ctx context.Context, p Port, n int) (published []Port, err error) {
	if p.Interface != "" {
		return nil, fmt.Errorf("listen on interface %s: %w", p.Interface, ErrNeedsHTTP)
	}
	p.HostPortEnd = 0
	for range n {
		var reply struct{ Return Port } // an id and nothing else
		if err := c.execute(ctx, addHostfwd, p, &reply); err != nil {
			for _, p := range published {
				err = errors.Join(err, c.Unpublish(context.WithoutCancel(ctx), p.ID))
			}
			return nil, err
		}
		done := p
		done.ID = reply.Return.ID
		published = append(published, done)
		p.HostPort, p.GuestPort = p.HostPort+1, p.GuestPort+1
	}
	return published, nil
}

// Unpublish removes a published port.
func (c *Client) Unpublish(ctx context.Context, id int) error {
	if c.HTTP != "" {
		return c.request(ctx, "DELETE", portPrefix+strconv.Itoa(id), nil, nil)
	}
	return c.execute(ctx, removeHostfwd, map[string]int{"id": id}, nil)
}

// Flows lists the current flows.
func (c *Client) Flows(ctx context.Context) ([]Flow, error) {
	var doc flowsDocument
	err := c.read(ctx, FlowsDocument, &doc)
	return doc.Flows, err
}

// Capture writes the frames that cross the TAP to w as pcapng, with at most snaplen bytes of
// each if that is not 0. It returns nil when ctx or the program ends, or w's error.
func (c *Client) Capture(ctx context.Context, w io.Writer, snaplen int) error {
	if c.HTTP == "" {
		return fmt.Errorf("capture frames: %w", ErrNeedsHTTP)
	}
	return c.stream(ctx, "/v1/pcap?snaplen="+strconv.Itoa(snaplen), w)
}

// Names of documents.
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
	reply := struct{ Return any }{doc}
	return c.execute(ctx, command, nil, &reply)
}
