package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

const portPrefix = "/v1/ports/"

// Content types.
const (
	kindJSON = "application/json"
	kindText = "text/plain; version=0.0.4; charset=utf-8" // Prometheus's
	kindPcap = "application/x-pcapng"
)

type handler func(context.Context, *request) *response

// handlers returns the methods of a path, none if it does not exist. The paths are those of
// docs/openapi.yaml.
func (s *Server) handlers(path string) map[string]handler {
	switch path {
	case "/v1/ports":
		return map[string]handler{"GET": s.listPorts, "POST": s.publish, "DELETE": s.unpublish}
	case forwardsPath:
		if s.cfg.Forwards == nil {
			return nil
		}
		return map[string]handler{"GET": s.listForwards, "PATCH": s.changeForwards}
	case policyPath:
		if s.cfg.Policies != nil {
			return map[string]handler{"GET": s.showMemberPolicy}
		}
		if s.cfg.Policy == nil {
			return nil
		}
		return map[string]handler{"GET": s.showPolicy, "PUT": s.replacePolicy}
	case whyPath:
		if s.cfg.Why != nil {
			return map[string]handler{"GET": s.showWhy}
		}
	case guestPath:
		if s.cfg.Guest != nil {
			return map[string]handler{"GET": s.showGuest}
		}
	case "/v1/flows":
		return map[string]handler{"GET": s.listFlows}
	case "/v1/stats":
		return map[string]handler{"GET": s.readStats}
	case "/v1/pcap":
		if s.cfg.Capture != nil {
			return map[string]handler{"GET": s.capture}
		}
	case "/metrics":
		return map[string]handler{"GET": s.readMetrics}
	}
	if strings.HasPrefix(path, portPrefix) {
		return map[string]handler{"GET": s.showPort, "DELETE": s.unpublish}
	}
	return nil
}

// route executes a request.
func (s *Server) route(ctx context.Context, req *request) *response {
	methods := s.handlers(req.url.Path)
	if methods == nil {
		return problem(statusNotFound, fmt.Errorf("%s does not exist; /v1/ports, /v1/guest, /v1/why, /v1/flows, /v1/stats, /v1/pcap, with a policy /v1/policy, and /metrics do", req.url.Path))
	}
	method := req.method
	if method == "HEAD" { // encode leaves the body out
		method = "GET"
	}
	if handle := methods[method]; handle != nil {
		return handle(ctx, req)
	}
	r := problem(statusBadMethod, fmt.Errorf("%s does not support %s", req.url.Path, req.method))
	r.allow = strings.Join(append(slices.Sorted(maps.Keys(methods)), "HEAD"), ", ")
	return r
}

func (s *Server) listPorts(context.Context, *request) *response {
	return okJSON(portsDocument{s.ports()})
}

func (s *Server) listFlows(context.Context, *request) *response {
	return okJSON(s.flows())
}

func (s *Server) readStats(context.Context, *request) *response {
	return okJSON(json.RawMessage(statsJSON(s.stats())))
}

func (s *Server) readMetrics(context.Context, *request) *response {
	return &response{status: statusOK, kind: kindText, body: metricsText(s.stats())}
}

// maxSnaplen exceeds the longest frame that can be captured, in bytes.
const maxSnaplen = 1 << 18

func (s *Server) capture(_ context.Context, req *request) *response {
	snaplen := 0
	if text := req.url.Query().Get("snaplen"); text != "" {
		var err error
		if snaplen, err = strconv.Atoi(text); err != nil || snaplen < 0 || snaplen > maxSnaplen {
			return problem(statusBadRequest, fmt.Errorf("snaplen is a number of bytes, 0 (all of a frame) to %d", maxSnaplen))
		}
	}
	return &response{status: statusOK, kind: kindPcap, stream: func(ctx context.Context, w io.Writer) error {
		return s.cfg.Capture(ctx, w, snaplen)
	}}
}

func (s *Server) showPort(_ context.Context, req *request) *response {
	id := portID(req)
	for _, p := range s.ports() {
		if strconv.Itoa(p.ID) == id {
			return okJSON(p)
		}
	}
	return noPort(id)
}

func (s *Server) publish(ctx context.Context, req *request) *response {
	rule, err := readRule(req.body)
	if err != nil {
		return problem(statusBadRequest, err)
	}
	e, err := s.cfg.Ports.Add(ctx, rule)
	if err != nil {
		return refused(err)
	}
	r := okJSON(portOf(e))
	r.status, r.location = statusCreated, fmt.Sprintf("/v1/ports/%d", e.ID)
	return r
}

// refused is the response when ports could not be published.
func refused(err error) *response {
	var bind *portfwd.BindError
	var conflict *pasta.ConflictError
	switch {
	case errors.As(err, &bind) && bind.Errno == unix.EACCES:
		return problem(statusForbidden, err)
	case errors.As(err, &bind), errors.As(err, &conflict):
		return problem(statusConflict, err)
	case fieldOf(err) != "":
		return problem(statusBadRequest, err)
	}
	return problem(statusInternalError, err)
}

func readRule(body []byte) (r portfwd.Rule, err error) {
	var p Port
	if err := readBody(body, &p, `{"rule":"8080:80"}`); err != nil {
		return r, err
	}
	return p.rule()
}

// readBody decodes a body that has the fields of v and no others.
func readBody(body []byte, v any, example string) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	switch err := d.Decode(v); {
	case err == io.EOF:
		return errors.New("the body is empty; an example of one is " + example)
	case err != nil:
		return fmt.Errorf("body: %w", err)
	}
	return nil
}

func (s *Server) unpublish(_ context.Context, req *request) *response {
	id := portID(req)
	if id == "" {
		return problem(statusBadRequest, errors.New("the id is missing: DELETE /v1/ports/ID"))
	}
	n, err := strconv.Atoi(id)
	if err != nil {
		return noPort(id)
	}
	switch err := s.cfg.Ports.Remove(n); {
	case errors.Is(err, portfwd.ErrNoRule):
		return problem(statusNotFound, err)
	case err != nil:
		return problem(statusInternalError, err)
	}
	return &response{status: statusNoContent}
}

// portID returns the id in the path, or else in the query.
func portID(req *request) string {
	if id, ok := strings.CutPrefix(req.url.Path, portPrefix); ok {
		return id
	}
	return req.url.Query().Get("id")
}

func noPort(id string) *response {
	return problem(statusNotFound, fmt.Errorf("published port %q: %w", id, portfwd.ErrNoRule))
}

func okJSON(v any) *response {
	return &response{status: statusOK, kind: kindJSON, body: append(encode(v), '\n')}
}

func problem(status string, err error) *response {
	r := okJSON(errorDocument{&Error{Desc: err.Error(), Field: fieldOf(err), Cause: errnoName(err)}})
	r.status = status
	return r
}
