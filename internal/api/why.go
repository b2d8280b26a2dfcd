package api

import (
	"context"
	"net/url"
)

const whyPath = "/v1/why"

// Why is what would become of a flow of the guest's.
type Why struct {
	Flow       string `json:"flow"`
	Verdict    string `json:"verdict"`              // allowed, refused, dropped or served
	Reason     string `json:"reason"`               // in words
	To         string `json:"to,omitempty"`         // where it would lead on the host
	From       string `json:"from,omitempty"`       // the host's address or interface that it would come from, if that is set
	Errno      string `json:"errno,omitempty"`      // the symbol of what the guest would see
	Rule       string `json:"rule,omitempty"`       // of the policy that decided
	Where      string `json:"where,omitempty"`      // the rule's file and line
	NameServer string `json:"nameserver,omitempty"` // the first that would be asked for the name
}

func (s *Server) showWhy(_ context.Context, req *request) *response {
	w, err := s.cfg.Why(req.url.Query().Get("flow"))
	if err != nil {
		return problem(statusBadRequest, err)
	}
	return okJSON(w)
}

// Why asks what would become of a flow, such as "tcp 192.0.2.1:80". The control socket does
// not know it.
func (c *Client) Why(ctx context.Context, flow string) (*Why, error) {
	if c.HTTP == "" {
		return nil, ErrNeedsHTTP
	}
	w := new(Why)
	return w, c.request(ctx, "GET", whyPath+"?flow="+url.QueryEscape(flow), nil, w)
}
