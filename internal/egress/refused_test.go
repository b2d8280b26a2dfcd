package egress

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestRefused: statements of testdata/refused.txt are refused where and because it says
// so, wherever in a policy they are.
func TestRefused(t *testing.T) {
	b, err := os.ReadFile("testdata/refused.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		statement, rest, _ := strings.Cut(line, "|")
		column, words, _ := strings.Cut(rest, "|")
		statement, words = strings.TrimRight(statement, " "), strings.TrimSpace(words)
		at, err := strconv.Atoi(strings.TrimSpace(column))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		p, err := Parse(Source{"option", "allow example.org"}, Source{"file", "# first\n" + statement + "\r\nallow example.com"})
		var e *Error
		if p != nil || !errors.As(err, &e) {
			t.Errorf("%s: %v", statement, err)
			continue
		}
		if e.File != "file" || e.Line != 2 || e.Column != at || !strings.Contains(e.Msg, words) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want column %d, %q", statement, err, at, words)
		}
	}
}

// TestAllFaultsAreTold, each with its place; what does not list them says how many there are.
func TestAllFaultsAreTold(t *testing.T) {
	many := strings.Repeat("allow *\n", MaxErrors+5)
	for _, tt := range []struct {
		texts []string
		want  []string // the first of the list
		list  int
		line  string
	}{
		{[]string{"allow a.example\nallow *.com\n"}, []string{"a:2:9: anybody can have"}, 1, "such as *.example.com"},
		{
			[]string{"alow x\n# fine\nallow a.example:0\r\nallow b.example\n\tdefault maybe"},
			[]string{"a:1:1: a line begins with", "a:3:17: \"0\" is not a port", "a:5:10: default is"}, 3, "(and 2 more)",
		},
		{
			[]string{"names real\nnames pin\nnames synthetic", "allow\nnames pin\nnames synthetic"},
			[]string{"a:1:7: names is", "a:3:1: names pin was said already, a:2", "b:1:6: a name", "b:3:1: names pin was said already, b:2"}, 4, "(and 3 more)",
		},
		{[]string{many}, []string{"a:1:7: '*' is"}, MaxErrors, "(and 24 more)"},
		{[]string{strings.Repeat("deny a.example\n", MaxRules+9) + "deny"}, []string{"a:10001:1: a policy has 10000 rules at most"}, 1, "at most"},
		{[]string{"allow *", strings.Repeat("#", MaxText)}, []string{"a:1:7", "b:1:1: a policy has"}, 2, "(and 1 more)"},
	} {
		var sources []Source
		for i, text := range tt.texts {
			sources = append(sources, Source{string(rune('a' + i)), text})
		}
		p, err := Parse(sources...)
		var all *Errors
		if p != nil || !errors.As(err, &all) || len(all.List) != tt.list {
			t.Errorf("%.60q: %v", tt.texts, err)
			continue
		}
		for i, want := range tt.want {
			if got := all.List[i].Error(); !strings.HasPrefix(got, want) {
				t.Errorf("%.60q: fault %d is %s, want %s", tt.texts, i, got, want)
			}
		}
		if line := err.Error(); !strings.HasPrefix(line, tt.want[0]) || !strings.HasSuffix(line, tt.line) || strings.Contains(line, "\n") {
			t.Errorf("%.60q: %s, want %s", tt.texts, line, tt.line)
		}
	}
}
