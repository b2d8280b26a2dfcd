package egress

import (
	"fmt"
	"strings"
	"testing"
)

// large is a policy of 1000 rules for addresses and 200 names.
func large(tb testing.TB) *Policy {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "allow tcp 10.%d.%d.0/24:443\n", i/250, i%250)
	}
	for i := range 200 {
		fmt.Fprintf(&b, "allow host%d.example.com:443\n", i)
	}
	b.WriteString("allow *.cdn.example.com:443\ndeny 10.0.0.0/16:25\nallow [2001:db8::/32]:443\n")
	p, err := Parse(Source{"large", b.String()})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func flowOf(tb testing.TB, s string) Flow {
	f, err := ParseFlow(s)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// TestDecideDoesNotAllocate, with many rules as with few.
func TestDecideDoesNotAllocate(t *testing.T) {
	p := large(t)
	for _, s := range []string{"tcp 10.3.77.9:443", "tcp host199.example.com:443 at 203.0.113.1", "tcp a.b.c.d.cdn.example.com:443", "tcp [2001:db8::1]:443", "tcp no.example:80"} {
		f := flowOf(t, s)
		if n := testing.AllocsPerRun(100, func() { p.Decide(f) }); n > 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	p := large(b)
	for _, s := range []string{"tcp 10.3.77.9:443", "tcp host199.example.com:443 at 203.0.113.1", "tcp a.b.c.d.cdn.example.com:443", "tcp no.example:80"} {
		f := flowOf(b, s)
		b.Run(strings.Fields(s)[1], func(b *testing.B) {
			for b.Loop() {
				p.Decide(f)
			}
		})
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
		p, err := Parse(Source{"file", tt.policy})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.DecideName(tt.name).said(); got != tt.want {
			t.Errorf("%q: %s is %s, want %s", tt.policy, tt.name, got, tt.want)
		}
	}
}

// What traffic names must be what was allowed.
func TestDecideSeen(t *testing.T) {
	p, err := Parse(Source{"file", "allow a.example:443\nallow b.example:443\nallow 192.0.2.0/24:443\ndeny evil.example"})
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
		if got := p.DecideSeen(flowOf(t, tt.flow), tt.seen).said(); got != tt.want {
			t.Errorf("%s with %s: %s, want %s", tt.flow, tt.seen, got, tt.want)
		}
	}
}

// What is said of a whole policy.
func TestSettings(t *testing.T) {
	p, err := Parse(Source{"a", "names pin\nsni require"}, Source{"b", "flows kill # at once\nnames pin\ndns any\nlearn\n"})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Pin || !p.RequireSNI || !p.KillFlows || !p.AnyDNS || !p.Learn {
		t.Errorf("%+v", p)
	}
	p, err = Parse(Source{"a", "default deny"}, Source{"b", "\ndefault allow"})
	if p != nil || err == nil || err.Error() != "b:2:1: default deny was said already, a:1" {
		t.Errorf("%v", err)
	}
	var empty Policy
	if v := empty.Decide(flowOf(t, "tcp 203.0.113.1:443")); v.Allow {
		t.Error("a policy that nothing made allows")
	}
}
