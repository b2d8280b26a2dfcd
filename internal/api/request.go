package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"

	"epiphyte/portfwd"
)

// object is a JSON object whose members are not looked at yet. Its keys are
// case-sensitive, as encoding/json has them only for maps.
type object map[string]json.RawMessage

// Requests that slirp4netns has no equals of: the documents of the HTTP side.
const (
	listFlows = "list_flows"
	showStats = "show_stats"
)

// answer executes one request of the control socket.
func (s *Server) answer(ctx context.Context, msg []byte) reply {
	// The first value counts; what follows it is ignored.
	var first json.RawMessage
	if json.NewDecoder(bytes.NewReader(msg)).Decode(&first) != nil {
		return failure("cannot parse JSON", "")
	}
	request := asObject(first)
	if request == nil {
		return failure("json_object() failed", "")
	}
	execute, ok := asString(request["execute"])
	if !ok {
		return failure("no execute found", "")
	}
	s.log.Debug("control request", "execute", execute, "arguments", string(request["arguments"]))
	arguments := asObject(request["arguments"])
	switch execute {
	case "add_hostfwd":
		return s.addHostfwd(ctx, arguments)
	case "list_hostfwd":
		return s.listHostfwd()
	case "remove_hostfwd":
		return s.removeHostfwd(arguments)
	case listFlows:
		return success(flowsDocument{s.flows()})
	case showStats:
		return success(json.RawMessage(statsJSON(s.stats())))
	}
	return failure("unknown execute", "")
}

func (s *Server) addHostfwd(ctx context.Context, arguments object) reply {
	rule, err := hostfwdRule(arguments)
	var e portfwd.Entry
	if err == nil {
		e, err = s.cfg.Ports.Add(ctx, rule)
	}
	if field := fieldOf(err); field != "" {
		return failure("add_hostfwd: bad arguments."+field, causeOf(err))
	}
	if err != nil {
		return failure("add_hostfwd: slirp_add_hostfwd failed", causeOf(err))
	}
	return success(struct {
		ID int `json:"id"`
	}{e.ID})
}

// listHostfwd replies in both forms: the one that slirp4netns documents, and the
// one that it sends.
func (s *Server) listHostfwd() reply {
	type entries struct {
		Entries []Port `json:"entries"`
	}
	list := entries{portsOf(s.cfg.Ports.List())}
	return encode(struct {
		Return entries `json:"return"`
		entries
	}{list, list})
}

func (s *Server) removeHostfwd(arguments object) reply {
	const badID = "remove_hostfwd: bad arguments.id"
	id, ok := asInteger(arguments["id"])
	if !ok {
		return failure(badID, "a number is wanted")
	}
	switch err := s.cfg.Ports.Remove(id); {
	case errors.Is(err, portfwd.ErrNoRule):
		return failure(badID, causeOf(err))
	case err != nil:
		return failure("remove_hostfwd: slirp_remove_hostfwd failed", causeOf(err))
	}
	return success(struct{}{})
}

// hostfwdRule reads the arguments of add_hostfwd, in the contract's order.
// Errors are *portfwd.FieldError.
//
// Beyond the contract, tcp4, tcp6, udp4 and udp6 name the family as well, which
// an address has to be of.
func hostfwdRule(arguments object) (r portfwd.Rule, err error) {
	bad := func(field string, err error) (portfwd.Rule, error) {
		return portfwd.Rule{}, &portfwd.FieldError{Field: field, Err: err}
	}
	proto, _ := asString(arguments["proto"])
	family := 0
	switch proto {
	case "tcp", "udp":
	case "tcp4", "udp4":
		family = 4
	case "tcp6", "udp6":
		family = 6
	default:
		return bad("proto", errors.New(`"tcp" or "udp" is wanted`))
	}
	r.Proto = proto[:3]
	if r.Host, err = asAddr(arguments["host_addr"]); err != nil {
		return bad("host_addr", err)
	}
	switch {
	case family != 0 && r.Host.IsValid() && r.Host.Is4() != (family == 4):
		return bad("host_addr", fmt.Errorf("%v is not of the family of %s", r.Host, proto))
	case family == 6 && !r.Host.IsValid():
		r.Host = netip.IPv6Unspecified()
	}
	if r.HostPort, err = asPort(arguments["host_port"]); err != nil {
		return bad("host_port", err)
	}
	if r.Guest, err = asAddr(arguments["guest_addr"]); err != nil {
		return bad("guest_addr", err)
	}
	if r.GuestPort, err = asPort(arguments["guest_port"]); err != nil {
		return bad("guest_port", err)
	}
	return r, nil
}

// asObject is nil for everything else.
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

// asAddr reads an address. Missing, null and "" are the address that is not
// valid.
func asAddr(v json.RawMessage) (netip.Addr, error) {
	if v == nil || string(v) == "null" {
		return netip.Addr{}, nil
	}
	s, ok := asString(v)
	if !ok {
		return netip.Addr{}, errors.New("a string is wanted")
	}
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return a, nil
}

// asInteger reads a number and cuts its fraction off, as the contract has it.
func asInteger(v json.RawMessage) (n int, ok bool) {
	if len(v) == 0 || v[0] != '-' && (v[0] < '0' || v[0] > '9') {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || math.Abs(f) > math.MaxInt32 {
		return 0, false
	}
	return int(f), true
}

func asPort(v json.RawMessage) (uint16, error) {
	n, ok := asInteger(v)
	if !ok {
		if _, isString := asString(v); isString {
			return 0, errors.New("a number is wanted, not a string; the ports of a range are asked for one by one")
		}
		return 0, errors.New("a number from 1 to 65535 is wanted")
	}
	if n < 1 || n > math.MaxUint16 {
		return 0, fmt.Errorf("%d is not from 1 to 65535", n)
	}
	return uint16(n), nil
}
