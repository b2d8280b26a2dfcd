package api

import (
	"context"

	"epiphyte/internal/pasta"
)

const forwardsPath = "/v1/forwards"

type forwardsDocument struct {
	Forwards []string `json:"forwards"`
}

// ForwardsChange is a pasta.Change in JSON. The ports are what pasta.ParseLine reads.
type ForwardsChange struct {
	Clear  []string `json:"clear,omitempty"`
	Delete []string `json:"delete,omitempty"`
	Add    []string `json:"add,omitempty"`
}

func (c ForwardsChange) parse() (p pasta.Change, err error) {
	p.Clear = c.Clear
	if p.Delete, err = parseLines(c.Delete); err == nil {
		p.Add, err = parseLines(c.Add)
	}
	return p, err
}

func parseLines(lines []string) (all []pasta.Forward, err error) {
	for _, line := range lines {
		list, err := pasta.ParseLine(line)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

func linesOf(list []pasta.Forward) []string {
	lines := make([]string, len(list))
	for i, f := range list {
		lines[i] = f.String()
	}
	return lines
}

func (s *Server) listForwards(context.Context, *request) *response {
	return okJSON(forwardsDocument{linesOf(s.cfg.Forwards.List())})
}

func (s *Server) changeForwards(ctx context.Context, req *request) *response {
	var doc ForwardsChange
	err := readBody(req.body, &doc, `{"add":["-t 8080:80"]}`)
	var change pasta.Change
	if err == nil {
		change, err = doc.parse()
	}
	if err == nil {
		_, err = pasta.Table(nil).Apply(pasta.Change{Clear: change.Clear})
	}
	if err != nil {
		return problem(statusBadRequest, err)
	}
	if err := s.cfg.Forwards.Change(ctx, change); err != nil {
		return refused(err)
	}
	return &response{status: statusNoContent}
}

// Forwards lists the ports of pasta's options. It needs an HTTP socket.
func (c *Client) Forwards(ctx context.Context) (pasta.Table, error) {
	var doc forwardsDocument
	if c.HTTP == "" {
		return nil, ErrNeedsHTTP
	}
	if err := c.request(ctx, "GET", forwardsPath, nil, &doc); err != nil {
		return nil, err
	}
	return parseLines(doc.Forwards)
}

// ChangeForwards changes the ports of pasta's options, all of it or nothing. It needs an
// HTTP socket.
func (c *Client) ChangeForwards(ctx context.Context, change pasta.Change) error {
	if c.HTTP == "" {
		return ErrNeedsHTTP
	}
	return c.request(ctx, "PATCH", forwardsPath, ForwardsChange{
		Clear: change.Clear, Delete: linesOf(change.Delete), Add: linesOf(change.Add),
	}, nil)
}
