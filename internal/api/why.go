package api

import (
	"context"
	"net/url"
)

const whyPath = "/v1/why"

// Why says what would become of a flow of the guest.
type Why struct {
	Flow       string `json:"flow"`
	Verdict    string `json:"verdict"`              // allowed, refused, dropped or served
	Reason     string `json:"reason"`               // in words
	To         string `json:"to,omitempty"`         // where it would lead on the host
	From       string `json:"from,omitempty"`       // the host's source address or interface, if one is set
	Member     string `json:"member,omitempty"`     // the network's member that has the address; with its network, if that is another
	Errno      string `json:"errno,omitempty"`      // the symbol of the error that the guest would see
	Rule       string `json:"rule,omitempty"`       // of the policy that decided
	Where      string `json:"where,omitempty"`      // the rule's file and line
	NameServer string `json:"nameserver,omitempty"` // the first that would be asked for the name
}

func (s *Server) showWhy(_ context.Context, req *request) *response {
	asked := req.url.Query()
	w, err := s.cfg.Why(asked.Get("member"), asked.Get("flow"))
	if err != nil {
		return problem(statusBadRequest, err)
	}
	return okJSON(w)
}

// Why asks what would become of a flow, such as "tcp 192.0.2.1:80", of the guest or, on a
// network, of the named member. The control socket does not support it.
func (c *Client) Why(ctx context.Context, member, flow string) (*Why, error) {
	if c.HTTP == "" {
		return nil, ErrNeedsHTTP
	}
	w := new(Why)
	asked := url.Values{"flow": {flow}}
	if member != "" {
		asked.Set("member", member)
	}
	return w, c.request(ctx, "GET", whyPath+"?"+asked.Encode(), nil, w)
}
