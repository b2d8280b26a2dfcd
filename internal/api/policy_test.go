package api

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

// fakePolicy is a policy of one rule, which is its text.
type fakePolicy struct{ rule string }

func (p *fakePolicy) Show() PolicyDocument {
	return PolicyDocument{Rules: []PolicyRule{{Rule: p.rule, Where: "file:7", Decided: 3}}, Denied: 5}
}

func (p *fakePolicy) Replace(text string) error {
	if strings.Contains(text, "*") {
		return errors.New("file:1:7: no star")
	}
	p.rule = text
	return nil
}

// A policy is shown, counted and replaced, by one that can be read only; without one
// there is no such path.
func TestPolicy(t *testing.T) {
	s := discreet()
	ask := func(method, path, body string) (status, answer string) {
		r := s.route(t.Context(), &request{method: method, url: &url.URL{Path: path}, body: []byte(body)})
		return r.status, string(r.body)
	}
	if status, _ := ask("GET", policyPath, ""); status != statusNotFound {
		t.Errorf("without a policy: %s", status)
	}
	s.cfg.Policy = new(fakePolicy)
	if status, answer := ask("PUT", policyPath, "allow a.example"); status != statusOK || !strings.Contains(answer, "allow a.example") {
		t.Errorf("replaced: %s %s", status, answer)
	}
	if status, answer := ask("PUT", policyPath, "allow *"); status != statusBadRequest || !strings.Contains(answer, "file:1:7") {
		t.Errorf("a wrong one: %s %s", status, answer)
	}
	if _, answer := ask("GET", policyPath, ""); !strings.Contains(answer, `"decided":3`) {
		t.Errorf("shown: %s", answer)
	}
	if _, answer := ask("GET", "/metrics", ""); !strings.Contains(answer, `epiphyte_policy_decided_total{rule="file:7"} 3`) || !strings.Contains(answer, "epiphyte_policy_denied_total 5") {
		t.Errorf("metrics: %s", answer)
	}
}
