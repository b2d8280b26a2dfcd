package egress_test

import (
	"fmt"
	"strings"
	"testing"

	"epiphyte/internal/egress"
	"epiphyte/internal/egress/egresstest"
)

// large is a policy of 1000 rules for addresses and 200 names.
func large(tb testing.TB) *egress.Policy {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "allow tcp 10.%d.%d.0/24:443\n", i/250, i%250)
	}
	for i := range 200 {
		fmt.Fprintf(&b, "allow host%d.example.com:443\n", i)
	}
	b.WriteString("allow *.cdn.example.com:443\ndeny 10.0.0.0/16:25\nallow [2001:db8::/32]:443\n")
	p, err := egress.Parse(egress.Source{"large", b.String()})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// TestDecideDoesNotAllocate, with many rules as with few.
func TestDecideDoesNotAllocate(t *testing.T) {
	p := large(t)
	for _, s := range []string{"tcp 10.3.77.9:443", "tcp host199.example.com:443 at 203.0.113.1", "tcp a.b.c.d.cdn.example.com:443", "tcp [2001:db8::1]:443", "tcp no.example:80"} {
		f := egresstest.Flow(t, s)
		if n := testing.AllocsPerRun(100, func() { p.Decide(f) }); n > 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	p := large(b)
	for _, s := range []string{"tcp 10.3.77.9:443", "tcp host199.example.com:443 at 203.0.113.1", "tcp a.b.c.d.cdn.example.com:443", "tcp no.example:80"} {
		f := egresstest.Flow(b, s)
		b.Run(strings.Fields(s)[1], func(b *testing.B) {
			for b.Loop() {
				p.Decide(f)
			}
		})
	}
}

// shapes are ways of having many rules: the text of the n-th, from 0, and the flow that only
// the n-th is about.
var shapes = []struct {
	name       string
	rule, flow func(n int) string
}{
	{"names",
		func(n int) string { return fmt.Sprintf("allow host%d.example:443", n) },
		func(n int) string { return fmt.Sprintf("tcp host%d.example:443", n) }},
	{"stars",
		func(n int) string { return fmt.Sprintf("allow *.host%d.example:443", n) },
		func(n int) string { return fmt.Sprintf("tcp a.b.host%d.example:443", n) }},
	{"prefixes",
		func(n int) string { return fmt.Sprintf("allow 11.%d.%d.0/24:443", n/250, n%250) },
		func(n int) string { return fmt.Sprintf("tcp 11.%d.%d.1:443", n/250, n%250) }},
	{"prefixes of 16 lengths",
		func(n int) string { return fmt.Sprintf("allow %d.%d.0.0/%d:443", 11+n/250, n%250, 17+n%16) },
		func(n int) string { return fmt.Sprintf("tcp %d.%d.0.0:443", 11+n/250, n%250) }},
	{"ports of a group",
		func(n int) string { return fmt.Sprintf("allow public:%d", 1000+n) },
		func(n int) string { return fmt.Sprintf("tcp 203.0.113.1:%d", 1000+n) }},
	{"ports of a name",
		func(n int) string { return fmt.Sprintf("allow a.example:%d", 1000+n) },
		func(n int) string { return fmt.Sprintf("tcp a.example:%d", 1000+n) }},
	{"ports of a prefix",
		func(n int) string { return fmt.Sprintf("deny 203.0.113.0/24:%d-%d", 1000+n, 2000+n) },
		func(n int) string { return fmt.Sprintf("tcp 203.0.113.1:%d", 2000+n) }},
	{"ports for a source",
		func(n int) string { return fmt.Sprintf("allow in from public to %d", 1000+n) },
		func(n int) string { return fmt.Sprintf("in tcp from 203.0.113.1 to %d", 1000+n) }},
}

// BenchmarkDecideRules is what a decision costs with rules of one shape: about the flow of
// the last of them.
func BenchmarkDecideRules(b *testing.B) {
	for _, shape := range shapes {
		for _, rules := range []int{0, 100, 1000} {
			var text strings.Builder
			for n := range rules {
				text.WriteString(shape.rule(n) + "\n")
			}
			p, err := egress.Parse(egress.Source{"rules", text.String()})
			if err != nil {
				b.Fatal(err)
			}
			f := egresstest.Flow(b, shape.flow(max(0, rules-1)))
			if v := p.Decide(f); rules > 0 && (v.Rule == nil || v.Rule.ID != rules-1) {
				b.Fatalf("%s: %+v", shape.name, v)
			}
			b.Run(fmt.Sprintf("%s/%d", shape.name, rules), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.Decide(f)
				}
			})
		}
	}
}

// Whether a name is answered at all: if anything about it is allowed.
func TestDecideName(t *testing.T) {
	for _, tt := range []struct{ policy, name, want string }{
		{"allow a.example:443", "a.example", "allow 1"},
		{"allow a.example:443", "b.example", "deny default"},
		{"allow icmp a.example", "a.example", "allow 1"},
		{"allow *.a.example:443\ndeny x.a.example", "x.a.example", "deny 2"},
		{"allow *.a.example:443\ndeny x.a.example:80", "x.a.example", "allow 1"},
		{"allow *.a.example:443\ndeny udp x.a.example", "x.a.example", "allow 1"},
		{"deny a.example", "b.example", "allow default"},
		{"allow public:443", "b.example", "deny default"},
		{"default allow\ndeny dns", "b.example", "deny 2"},
		{"allow a.example\ndeny dns", "a.example", "deny 2"},
	} {
		p, err := egress.Parse(egress.Source{"file", tt.policy})
		if err != nil {
			t.Fatal(err)
		}
		if got := egresstest.Said(p.DecideName(tt.name)); got != tt.want {
			t.Errorf("%q: %s is %s, want %s", tt.policy, tt.name, got, tt.want)
		}
	}
}

// What traffic names must be what was allowed.
func TestDecideSeen(t *testing.T) {
	p, err := egress.Parse(egress.Source{"file", "allow a.example:443\nallow b.example:443\nallow 192.0.2.0/24:443\ndeny evil.example"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ flow, seen, want string }{
		{"tcp a.example:443", "a.example", "allow 1"},
		{"tcp a.example:443", "b.example", "deny name in the traffic"},
		{"tcp a.example:443", "evil.example", "deny name in the traffic"},
		{"tcp 192.0.2.1:443", "any.example", "allow 3"},
		{"tcp 192.0.2.1:443", "evil.example", "deny 4"},
	} {
		if got := egresstest.Said(p.DecideSeen(egresstest.Flow(t, tt.flow), tt.seen)); got != tt.want {
			t.Errorf("%s with %s: %s, want %s", tt.flow, tt.seen, got, tt.want)
		}
	}
}

// What is said of a whole policy.
func TestSettings(t *testing.T) {
	p, err := egress.Parse(egress.Source{"a", "names pin\nsni require"}, egress.Source{"b", "flows kill # at once\nnames pin\ndns any\nlearn\n"})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Pin || !p.RequireSNI || !p.KillFlows || !p.AnyDNS || !p.Learn {
		t.Errorf("%+v", p)
	}
	p, err = egress.Parse(egress.Source{"a", "default deny"}, egress.Source{"b", "\ndefault allow"})
	if p != nil || err == nil || err.Error() != "b:2:1: default deny was said already, a:1" {
		t.Errorf("%v", err)
	}
	var empty egress.Policy
	if v := empty.Decide(egresstest.Flow(t, "tcp 203.0.113.1:443")); v.Allow {
		t.Error("a policy that nothing made allows")
	}
}
