package api

import (
	"context"
	"fmt"
	"net/url"
)

const policyPath = "/v1/policy"

// Policy is what a guest may reach. Many goroutines call its methods at once.
type Policy interface {
	Show() PolicyDocument
	// Replace replaces the policy by one in the language of files. After an error the old
	// one stays.
	Replace(text string) error
}

// Policies are those of the members of a network. Many goroutines call its methods at once.
type Policies interface {
	// Show returns a member's policy; the name of the only member may be left out.
	Show(member string) (PolicyDocument, error)
	// Each calls f for every member that has one.
	Each(f func(member string, doc PolicyDocument))
}

// PolicyDocument is the policy in force.
type PolicyDocument struct {
	Rules   []PolicyRule `json:"rules"`
	Default uint64       `json:"default_allowed"` // flows that no rule decided, and that passed
	Denied  uint64       `json:"denied"`          // flows and names, whatever denied them
}

// PolicyRule is one of its rules.
type PolicyRule struct {
	Rule    string `json:"rule"`
	Where   string `json:"where"`   // file:line
	Decided uint64 `json:"decided"` // flows since the policy came into force
}

func (s *Server) showPolicy(context.Context, *request) *response {
	return okJSON(s.cfg.Policy.Show())
}

func (s *Server) showMemberPolicy(_ context.Context, req *request) *response {
	doc, err := s.cfg.Policies.Show(req.url.Query().Get("member"))
	if err != nil {
		return problem(statusNotFound, err)
	}
	return okJSON(doc)
}

// MemberPolicy reads the policy of a network's member, and how often its rules have decided.
func (c *Client) MemberPolicy(ctx context.Context, member string) (doc PolicyDocument, err error) {
	return doc, c.request(ctx, "GET", policyPath+"?"+url.Values{"member": {member}}.Encode(), nil, &doc)
}

func (s *Server) replacePolicy(_ context.Context, req *request) *response {
	if err := s.cfg.Policy.Replace(string(req.body)); err != nil {
		return problem(statusBadRequest, fmt.Errorf("the policy in force stays: %w", err))
	}
	return okJSON(s.cfg.Policy.Show())
}

// policyMetrics returns the counters of the policy, or of the members' policies, if any.
func (s *Server) policyMetrics() []Metric {
	rules := Metric{Name: "policy_decided", Help: "Flows that a rule of the policy in force decided", Counter: true, Label: "rule"}
	denied := Metric{Name: "policy_denied", Help: "Flows that the policy in force denied", Counter: true}
	add := func(member string, doc PolicyDocument) {
		for _, r := range doc.Rules {
			rules.Values = append(rules.Values, Value{Member: member, Label: r.Where, N: r.Decided})
		}
		denied.Values = append(denied.Values, Value{Label: member, N: doc.Denied})
	}
	switch {
	case s.cfg.Policy != nil:
		add("", s.cfg.Policy.Show())
	case s.cfg.Policies != nil:
		denied.Label = memberLabel
		s.cfg.Policies.Each(add)
	default:
		return nil
	}
	return []Metric{rules, denied}
}
