package egress

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// policyFile is a policy of testdata.
func policyFile(t testing.TB, file string) (p *Policy, text string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	p, err = Parse(Source{file, string(b)})
	if err != nil {
		t.Fatal(err)
	}
	return p, string(b)
}

// said is a verdict as the files of testdata write it.
func (v Verdict) said() string {
	word := "deny"
	if v.Allow {
		word = "allow"
	}
	if v.Reason == ByRule {
		return word + " " + strconv.Itoa(v.Rule.Line)
	}
	return word + " " + string(v.Reason)
}

// TestGolden decides the flows that testdata/*.policy list, each in the file of its
// policy.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.policy")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d policies, %v", len(files), err)
	}
	for _, file := range files {
		p, text := policyFile(t, filepath.Base(file))
		line, flows := 0, 0
		for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
			line++
			expectation, ok := strings.CutPrefix(s.Text(), "#? ")
			if !ok {
				continue
			}
			flows++
			fields := strings.Fields(expectation)
			n := len(fields)
			for n > 0 && fields[n-1] != "allow" && fields[n-1] != "deny" {
				n--
			}
			f, err := ParseFlow(strings.Join(fields[:n-1], " "))
			if err != nil {
				t.Errorf("%s:%d: %v", file, line, err)
				continue
			}
			if got, want := p.Decide(f).said(), strings.Join(fields[n-1:], " "); got != want {
				t.Errorf("%s:%d: %s: %s", file, line, expectation, got)
			}
		}
		if flows == 0 {
			t.Errorf("%s has no flows", file)
		}
	}
}

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
