package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// why says what would become of a flow, by which rule, address and nameserver, and does
// nothing about it.
func TestWhy(t *testing.T) {
	t.Parallel()
	n := newNetworks(t, "198.51.100.4")
	n.start(t, "run", "--quiet", "--outbound-addr=198.51.100.1", "sleep", "100")
	n.awaitGuests(t, 1)
	for _, c := range []struct{ flow, says string }{
		{"10.0.2.2:5432", "allowed|stands for the host's loopback|127.0.0.1:5432"},
		{"tcp 192.0.2.1:80", "allowed|192.0.2.1:80|from        198.51.100.1"},
		{"udp 10.0.2.3:53", "served|198.51.100.4"},
		{"tcp 10.0.2.3:80", "refused|port 53 alone|ENETUNREACH"},
		{"10.0.2.77:80", "dropped|in the guest's subnet"},
		{"127.0.0.1:80", "dropped|loopback"},
		{"icmp 192.0.2.1", "allowed"},
		{"web.example:443", "allowed|looked up|198.51.100.4"},
	} {
		out := n.do(t, append([]string{"why"}, strings.Fields(c.flow)...)...)
		for _, word := range strings.Split(c.says, "|") {
			if !strings.Contains(out, word) {
				t.Errorf("why %s: no %q in %s", c.flow, word, out)
			}
		}
	}
	if out := n.do(t, "flows", "--json"); strings.Contains(out, "192.0.2.1") {
		t.Errorf("a question made a flow: %s", out)
	}
	if _, err, code := n.try(t, "why", "nonsense"); code != 1 || !strings.Contains(err, "a port is missing") || strings.Count(err, "\n") != 1 {
		t.Errorf("nonsense: status %d, %q", code, err)
	}
}

// Under learn it says that what no rule allows passes, but not to another resolver.
func TestWhy_Learn(t *testing.T) {
	t.Parallel()
	n := newNetworks(t, "198.51.100.4")
	file := filepath.Join(n.dir, "rules")
	if err := os.WriteFile(file, []byte("default deny\ndeny 192.0.2.0/24\nlearn\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(t, "run", "--quiet", "--policy="+file, "sleep", "100")
	n.awaitGuests(t, 1)
	for flow, want := range map[string]string{
		"203.0.113.9:80":    "allowed|no rule of the policy allows it|under learn it passes|203.0.113.9:80",
		"192.0.2.1:80":      "allowed|deny 192.0.2.0/24|under learn it passes",
		"other.example:443": "allowed|under learn it passes",
		"203.0.113.9:53":    "refused|other resolver|EACCES",
	} {
		out := n.do(t, "why", flow)
		for _, word := range strings.Split(want, "|") {
			if !strings.Contains(out, word) {
				t.Errorf("why %s: no %q in %s", flow, word, out)
			}
		}
	}
}

// Under a policy it names the rule.
func TestWhy_Policy(t *testing.T) {
	t.Parallel()
	n := newNetworks(t, "198.51.100.4")
	file := filepath.Join(n.dir, "rules")
	if err := os.WriteFile(file, []byte("allow web.example:443\ndeny 192.0.2.0/24\nallow 203.0.113.0/24:80\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(t, "run", "--quiet", "--policy="+file, "sleep", "100")
	n.awaitGuests(t, 1)
	for flow, want := range map[string][3]string{
		"192.0.2.1:80":      {"refused", "deny 192.0.2.0/24", ":2"},
		"203.0.113.9:80":    {"allowed", "allow 203.0.113.0/24:80", ":3"},
		"203.0.113.9:81":    {"refused", "", ""},
		"web.example:443":   {"allowed", "allow web.example:443", ":1"},
		"other.example:443": {"refused", "", ""},
	} {
		var doc struct{ Verdict, Rule, Where string }
		if err := json.Unmarshal([]byte(n.do(t, "why", "--json", flow)), &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Verdict != want[0] || doc.Rule != want[1] || !strings.HasSuffix(doc.Where, want[2]) {
			t.Errorf("why %s: %+v, want %q", flow, doc, want)
		}
	}
	if out := n.do(t, "stats"); !strings.Contains(out, "policy_denied") || !strings.Contains(strings.Join(strings.Fields(out), " "), "policy_denied 0") {
		t.Errorf("questions were counted: %s", out)
	}
}
