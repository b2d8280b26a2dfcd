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

// fakePolicies are those of two members.
type fakePolicies struct{ fakePolicy }

func (p *fakePolicies) Show(member string) (PolicyDocument, error) {
	if member == "b" {
		return PolicyDocument{}, errors.New("b has no policy")
	}
	return p.fakePolicy.Show(), nil
}

func (p *fakePolicies) Each(f func(string, PolicyDocument)) { f("a", p.fakePolicy.Show()) }

// Those of a network's members are shown and counted, each by its name.
func TestMemberPolicies(t *testing.T) {
	s := discreet()
	s.cfg.Policies = &fakePolicies{fakePolicy{"allow a.example"}}
	ask := func(method, path, query string) (status, answer string) {
		r := s.route(t.Context(), &request{method: method, url: &url.URL{Path: path, RawQuery: query}})
		return r.status, string(r.body)
	}
	if status, answer := ask("GET", policyPath, "member=a"); status != statusOK || !strings.Contains(answer, "allow a.example") {
		t.Errorf("shown: %s %s", status, answer)
	}
	if status, answer := ask("GET", policyPath, "member=b"); status != statusNotFound || !strings.Contains(answer, "b has no policy") {
		t.Errorf("without: %s %s", status, answer)
	}
	if status, _ := ask("PUT", policyPath, "member=a"); status != statusBadMethod {
		t.Errorf("replaced: %s", status)
	}
	_, metrics := ask("GET", "/metrics", "")
	for _, want := range []string{`epiphyte_policy_decided_total{member="a",rule="file:7"} 3`, `epiphyte_policy_denied_total{member="a"} 5`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics without %s: %s", want, metrics)
		}
	}
	if _, stats := ask("GET", "/v1/stats", ""); !strings.Contains(stats, `"policy_decided":{"a file:7":3}`) {
		t.Errorf("stats: %s", stats)
	}
}
