package api

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"

	"epiphyte/portfwd"
)

// object is a JSON object with members still encoded. Unlike a struct's, its keys are
// case-sensitive, as the contract requires.
type object map[string]json.RawMessage

// Requests of the control socket.
const (
	addHostfwd    = "add_hostfwd"
	listHostfwd   = "list_hostfwd"
	removeHostfwd = "remove_hostfwd"
	// Ours; slirp4netns does not have them.
	listFlows = "list_flows"
	showStats = "show_stats"
)

// execute executes one request of the control socket.
func (s *Server) execute(ctx context.Context, message json.RawMessage) []byte {
	request := asObject(message)
	if request == nil {
		return failure("json_object() failed", "")
	}
	name, ok := asString(request["execute"])
	if !ok {
		return failure("no execute found", "")
	}
	s.log.Debug("control request", "execute", name, "arguments", string(request["arguments"]))
	arguments := asObject(request["arguments"])
	switch name {
	case addHostfwd:
		return s.addHostfwd(ctx, arguments)
	case listHostfwd:
		return s.listHostfwd()
	case removeHostfwd:
		return s.removeHostfwd(arguments)
	case listFlows:
		return success(s.flows())
	case showStats:
		return success(json.RawMessage(statsJSON(s.stats())))
	}
	return failure("unknown execute", "")
}

func (s *Server) addHostfwd(ctx context.Context, arguments object) []byte {
	e, err := s.addArguments(ctx, arguments)
	if field := fieldOf(err); field != "" {
		return failure(addHostfwd+": bad arguments."+field, causeOf(err))
	}
	if err != nil {
		return failure(addHostfwd+": slirp_add_hostfwd failed", causeOf(err))
	}
	return success(struct {
		ID int `json:"id"`
	}{e.ID})
}

// addArguments publishes a single port. Unlike HTTP, the contract requires proto
// and guest_port, and has no ranges.
func (s *Server) addArguments(ctx context.Context, arguments object) (e portfwd.Entry, err error) {
	p := Port{
		Proto:     asText(arguments["proto"]),
		HostAddr:  asText(arguments["host_addr"]),
		HostPort:  asNumber(arguments["host_port"]),
		GuestAddr: asText(arguments["guest_addr"]),
		GuestPort: asNumber(arguments["guest_port"]),
	}
	if p.Proto == "" {
		return e, fieldError("proto", "tcp or udp is required")
	}
	rule, err := p.rule()
	if err == nil {
		_, err = parsePort("guest_port", p.GuestPort)
	}
	if err != nil {
		return e, err
	}
	return s.cfg.Ports.Add(ctx, rule)
}

// listHostfwd replies in two forms: as slirp4netns documents it, and as it sends it.
func (s *Server) listHostfwd() []byte {
	type entries struct {
		Entries []Port `json:"entries"`
	}
	list := entries{s.ports()}
	return encode(struct {
		Return entries `json:"return"`
		entries
	}{list, list})
}

func (s *Server) removeHostfwd(arguments object) []byte {
	const badID = removeHostfwd + ": bad arguments.id"
	id := asNumber(arguments["id"])
	if id == 0 {
		return failure(badID, "a number is required")
	}
	switch err := s.cfg.Ports.Remove(id); {
	case errors.Is(err, portfwd.ErrNoRule):
		return failure(badID, causeOf(err))
	case err != nil:
		return failure(removeHostfwd+": slirp_remove_hostfwd failed", causeOf(err))
	}
	return success(struct{}{})
}

// causeOf returns err in one line after the symbol of its errno, without the name of the
// field, which the contract's text has.
func causeOf(err error) string {
	var field *portfwd.FieldError
	if errors.As(err, &field) {
		err = field.Err
	}
	if name := errnoName(err); name != "" {
		return name + ": " + err.Error()
	}
	return err.Error()
}

// asObject returns nil if v is no object.
func asObject(v json.RawMessage) object {
	var o object
	if json.Unmarshal(v, &o) != nil {
		return nil
	}
	return o
}

func asString(v json.RawMessage) (s string, ok bool) {
	if len(v) == 0 || v[0] != '"' {
		return "", false
	}
	return s, json.Unmarshal(v, &s) == nil
}

// asText returns a string's value. Missing and null are empty; other types are returned as
// they were sent, which no field accepts.
func asText(v json.RawMessage) string {
	if s, ok := asString(v); ok {
		return s
	}
	if string(v) == "null" {
		return ""
	}
	return string(v)
}

// asNumber returns a number without its fraction. As in the contract, everything else is 0,
// including strings and numbers of more than 32 bits.
func asNumber(v json.RawMessage) int {
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || math.Abs(f) > math.MaxInt32 {
		return 0
	}
	return int(f)
}
