package api

import (
	"context"
	"fmt"
)

const policyPath = "/v1/policy"

// Policy is what a guest may reach. Its methods are called by many goroutines at once.
type Policy interface {
	Show() PolicyDocument
	// Replace puts a policy, in the language of files, in place of the one in force.
	// After an error that one stays.
	Replace(text string) error
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
	Decided uint64 `json:"decided"` // flows since the policy is in force
}

func (s *Server) showPolicy(context.Context, *request) *response {
	return okJSON(s.cfg.Policy.Show())
}

func (s *Server) replacePolicy(_ context.Context, req *request) *response {
	if err := s.cfg.Policy.Replace(string(req.body)); err != nil {
		return problem(statusBadRequest, fmt.Errorf("the policy in force stays: %w", err))
	}
	return okJSON(s.cfg.Policy.Show())
}

// policyMetrics are the counters of the policy, if there is one.
func (s *Server) policyMetrics() []Metric {
	if s.cfg.Policy == nil {
		return nil
	}
	doc := s.cfg.Policy.Show()
	rules := Metric{Name: "policy_decided", Help: "Flows that a rule of the policy in force decided", Counter: true, Label: "rule"}
	for _, r := range doc.Rules {
		rules.Values = append(rules.Values, Value{Label: r.Where, N: r.Decided})
	}
	return []Metric{rules, {Name: "policy_denied", Help: "Flows that the policy in force denied", Counter: true, Values: []Value{{N: doc.Denied}}}}
}
