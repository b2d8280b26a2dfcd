package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/portfwd"
)

// Content types.
const (
	kindJSON = "application/json"
	kindText = "text/plain; version=0.0.4; charset=utf-8" // Prometheus's
)

// route answers one HTTP request. The routes are those of docs/openapi.yaml.
func (s *Server) route(ctx context.Context, req *request) *response {
	id, isPort := strings.CutPrefix(req.path, "/v1/ports/")
	switch {
	case req.path == "/v1/ports":
		return s.portsRoute(ctx, req)
	case isPort:
		return s.portRoute(req, id)
	case req.path == "/v1/flows":
		return reading(req, func() *response { return okJSON(flowsDocument{s.flows()}) })
	case req.path == "/v1/stats":
		return reading(req, func() *response { return &response{status: 200, kind: kindJSON, body: statsJSON(s.stats())} })
	case req.path == "/metrics":
		return reading(req, func() *response { return &response{status: 200, kind: kindText, body: metricsText(s.stats())} })
	}
	return problem(404, fmt.Errorf("%s: there is /v1/ports, /v1/flows, /v1/stats and /metrics", req.path))
}

// reading answers GET and HEAD.
func reading(req *request, answer func() *response) *response {
	if req.method != "GET" && req.method != "HEAD" {
		return notAllowed(req, "GET, HEAD")
	}
	return answer()
}

func (s *Server) portsRoute(ctx context.Context, req *request) *response {
	switch req.method {
	case "POST":
		return s.publish(ctx, req.body)
	case "DELETE":
		id, ok := strings.CutPrefix(req.query, "id=")
		if !ok {
			return problem(400, errors.New("which one? DELETE /v1/ports/ID"))
		}
		return s.unpublish(id)
	case "GET", "HEAD":
		return okJSON(portsDocument{portsOf(s.cfg.Ports.List())})
	}
	return notAllowed(req, "GET, HEAD, POST, DELETE")
}

func (s *Server) portRoute(req *request, id string) *response {
	switch req.method {
	case "DELETE":
		return s.unpublish(id)
	case "GET", "HEAD":
		for _, e := range s.cfg.Ports.List() {
			if strconv.Itoa(e.ID) == id {
				return okJSON(portOf(e))
			}
		}
		return problem(404, fmt.Errorf("published port %q: %w", id, portfwd.ErrNoRule))
	}
	return notAllowed(req, "GET, HEAD, DELETE")
}

func (s *Server) publish(ctx context.Context, body []byte) *response {
	rule, err := readRule(body)
	var e portfwd.Entry
	if err == nil {
		e, err = s.cfg.Ports.Add(ctx, rule)
	}
	var bind *portfwd.BindError
	switch {
	case err == nil:
		r := okJSON(portOf(e))
		r.status, r.location = 201, fmt.Sprintf("/v1/ports/%d", e.ID)
		return r
	case errors.As(err, &bind) && bind.Errno == unix.EACCES:
		return problem(403, err)
	case errors.As(err, &bind):
		return problem(409, err)
	case fieldOf(err) != "" || errors.As(err, new(*badBody)):
		return problem(400, err)
	}
	return problem(500, err)
}

func (s *Server) unpublish(id string) *response {
	n, err := strconv.Atoi(id)
	if err != nil {
		return problem(404, fmt.Errorf("published port %q: %w", id, portfwd.ErrNoRule))
	}
	switch err := s.cfg.Ports.Remove(n); {
	case errors.Is(err, portfwd.ErrNoRule):
		return problem(404, err)
	case err != nil:
		return problem(500, err)
	}
	return &response{status: 204}
}

func (s *Server) flows() []flowJSON {
	list := []flowJSON{}
	if s.cfg.Flows == nil {
		return list
	}
	for _, f := range s.cfg.Flows() {
		list = append(list, flowJSON{
			f.Proto, f.Guest, f.Remote, f.Host, f.State, f.In, f.Out, f.Age.Seconds(), f.Idle.Seconds(),
		})
	}
	return list
}

func (s *Server) stats() []Metric {
	if s.cfg.Stats == nil {
		return nil
	}
	return s.cfg.Stats()
}

// The documents of the HTTP side.
type (
	portsDocument struct {
		Ports []Port `json:"ports"`
	}
	flowsDocument struct {
		Flows []flowJSON `json:"flows"`
	}
	flowJSON struct {
		Proto    string  `json:"proto"`
		Guest    string  `json:"guest"`
		Remote   string  `json:"remote"`
		Host     string  `json:"host"`
		State    string  `json:"state"`
		InBytes  uint64  `json:"in_bytes"`
		OutBytes uint64  `json:"out_bytes"`
		Age      float64 `json:"age_seconds"`
		Idle     float64 `json:"idle_seconds"`
	}
	problemDocument struct {
		Error problemJSON `json:"error"`
	}
	problemJSON struct {
		Desc  string `json:"desc"`
		Field string `json:"field,omitempty"` // of the rule, where one is wrong
		Cause string `json:"cause,omitempty"` // symbol of the errno
	}
	// ruleJSON is what is posted: a rule in the words of the command line, or
	// its parts.
	ruleJSON struct {
		Rule        string `json:"rule,omitempty"`
		Proto       string `json:"proto,omitempty"`
		HostAddr    string `json:"host_addr,omitempty"`
		Interface   string `json:"interface,omitempty"`
		HostPort    uint16 `json:"host_port,omitempty"`
		HostPortEnd uint16 `json:"host_port_end,omitempty"`
		GuestAddr   string `json:"guest_addr,omitempty"`
		GuestPort   uint16 `json:"guest_port,omitempty"`
	}
)

// badBody is a body that is not the JSON that is wanted.
type badBody struct{ err error }

func (e *badBody) Error() string { return "body: " + e.err.Error() }

func readRule(body []byte) (portfwd.Rule, error) {
	var j ruleJSON
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New(`empty; {"rule":"8080:80"} for one is wanted`)
		}
		return portfwd.Rule{}, &badBody{err}
	}
	if j.Rule == "" {
		return j.parts()
	}
	if (j != ruleJSON{Rule: j.Rule, GuestAddr: j.GuestAddr}) {
		return portfwd.Rule{}, &badBody{errors.New("both a rule and its parts; only guest_addr may stand beside a rule")}
	}
	r, err := portfwd.Parse(j.Rule)
	if err != nil {
		if fieldOf(err) == "" {
			err = &badBody{err}
		}
		return r, err
	}
	r.Guest, err = parseAddr("guest_addr", j.GuestAddr)
	return r, err
}

// parts makes a rule of the parts given one by one.
func (j *ruleJSON) parts() (portfwd.Rule, error) {
	r := portfwd.Rule{
		Proto:       j.Proto,
		Interface:   j.Interface,
		HostPort:    j.HostPort,
		HostPortEnd: j.HostPortEnd,
		GuestPort:   j.GuestPort,
	}
	if r.Proto == "" {
		r.Proto = portfwd.TCP
	}
	var err error
	if r.Host, err = parseAddr("host_addr", j.HostAddr); err != nil {
		return r, err
	}
	r.Guest, err = parseAddr("guest_addr", j.GuestAddr)
	return r, err
}

// parseAddr reads an address, of which the empty one is not valid.
func parseAddr(field, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, &portfwd.FieldError{Field: field, Err: fmt.Errorf("%q is not an IP address", s)}
	}
	return a, nil
}

func okJSON(v any) *response {
	return &response{status: 200, kind: kindJSON, body: append(encode(v), '\n')}
}

func problem(status int, err error) *response {
	r := okJSON(problemDocument{problemJSON{err.Error(), fieldOf(err), errnoName(err)}})
	r.status = status
	return r
}

func notAllowed(req *request, methods string) *response {
	r := problem(405, fmt.Errorf("%s has no %s", req.path, req.method))
	r.allow = methods
	return r
}
