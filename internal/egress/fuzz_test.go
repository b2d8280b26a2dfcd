package egress

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParse: any text is a policy or an error at a place within it, and a policy says
// the same when its rules are written down again.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.policy")
	for _, file := range append(files, "testdata/refused.txt") {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	for _, s := range []string{"", "allow", "#", "\x00", "allow [::1", "allow in from", "deny a:1-", "default\tin  deny\r\n", "allow ＧitHub.com"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(Source{"file", text})
		if err != nil {
			var all *Errors
			if p != nil || !errors.As(err, &all) {
				t.Fatalf("%v with %v", err, p)
			}
			lines := strings.Split(text, "\n")
			last := 0
			for _, err := range all.List {
				e := err.(*Error)
				if e.Line <= last || e.Line > len(lines) || e.Column < 1 || e.Column > len(lines[e.Line-1])+1 {
					t.Errorf("%v is not in the text, or not in its order", e)
				}
				last = e.Line
			}
			return
		}
		var again strings.Builder
		for _, r := range p.Rules() {
			again.WriteString(r.Text + "\n")
		}
		q, err := Parse(Source{"again", again.String()})
		if err != nil {
			t.Fatalf("%q read again: %v", again.String(), err)
		}
		for i, r := range p.Rules() {
			s := q.Rules()[i]
			if r.allow != s.allow || r.target != s.target || r.protos != s.protos || len(r.ports) != len(s.ports) {
				t.Errorf("%+v became %+v", r, s)
			}
			if r.allow && r.target == (target{}) {
				t.Errorf("%q allows without a target", r.Text)
			}
		}
	})
}

// FuzzCanonical: what a name becomes, it stays.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"GitHub.com.", "bücher.example", "xn--bcher-kva.example", "a..b", "-a", "1.2", "ß.de", "a\u200db.com", "ⓖithub.com", "0x1", "_x._tcp.y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		c, err := Canonical(name)
		if err != nil {
			return
		}
		if again, err := Canonical(c); err != nil || again != c {
			t.Errorf("%q became %q, and that %q, %v", name, c, again, err)
		}
	})
}

// FuzzParseFlow: a flow that can be read can be decided.
func FuzzParseFlow(f *testing.F) {
	for _, s := range []string{"tcp a.example:443", "udp [::1]:53 at 10.0.0.1", "in tcp from 10.0.0.1 to 80", "icmp 1.1.1.1", "host 10.0.0.1:80", "tcp a:1 at host 1.1.1.1", ":1", "in"} {
		f.Add(s)
	}
	text, err := os.ReadFile("testdata/groups.policy")
	if err != nil {
		f.Fatal(err)
	}
	p, err := Parse(Source{"groups.policy", string(text)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		flow, err := ParseFlow(s)
		if err != nil {
			return
		}
		v := p.Decide(flow)
		if v.Reason == ByRule && (v.Rule == nil || !v.Rule.covers(flow.Proto, flow.Port)) {
			t.Errorf("%q is decided by %+v", s, v)
		}
	})
}
