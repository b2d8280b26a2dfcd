// Package egresstest reads the golden cases of policies, for tests.
//
// # Theory of operation
//
// A golden case is a line of a policy in egress/testdata, a comment to the policy itself:
//
//	#? FLOW VERDICT
//
// FLOW is as egress.ParseFlow reads it, and VERDICT as Said writes it. Whoever decides about
// flows by a policy can be held against them.
package egresstest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"epiphyte/internal/egress"
)

// Case is a flow, and what a policy says of it.
type Case struct {
	Policy *egress.Policy
	Where  string // file:line: text
	Flow   egress.Flow
	Want   string // as Said
}

// Cases are those of the policies in a directory.
func Cases(t testing.TB, dir string) (all []Case) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.policy"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d policies in %s, %v", len(files), dir, err)
	}
	for _, file := range files {
		cases := casesOf(t, file)
		if len(cases) == 0 {
			t.Errorf("%s has no flows", file)
		}
		all = append(all, cases...)
	}
	return all
}

func casesOf(t testing.TB, file string) (cases []Case) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := egress.Parse(egress.Source{File: filepath.Base(file), Text: string(text)})
	if err != nil {
		t.Fatal(err)
	}
	line := 0
	for s := range strings.Lines(string(text)) {
		line++
		expectation, ok := strings.CutPrefix(strings.TrimSpace(s), "#? ")
		if !ok {
			continue
		}
		fields := strings.Fields(expectation)
		n := len(fields)
		for n > 1 && fields[n-1] != "allow" && fields[n-1] != "deny" {
			n--
		}
		c := Case{Policy: p, Where: filepath.Base(file) + ":" + strconv.Itoa(line) + ": " + expectation, Want: strings.Join(fields[n-1:], " ")}
		if c.Flow, err = egress.ParseFlow(strings.Join(fields[:n-1], " ")); err != nil {
			t.Errorf("%s: %v", c.Where, err)
			continue
		}
		cases = append(cases, c)
	}
	return cases
}

// Said is a verdict in words: allow or deny, and the line of the rule or the reason.
func Said(v egress.Verdict) string {
	word := "deny"
	if v.Allow {
		word = "allow"
	}
	if v.Reason == egress.ByRule {
		return word + " " + strconv.Itoa(v.Rule.Line)
	}
	return word + " " + string(v.Reason)
}

// Flow is one as people write it; see egress.ParseFlow.
func Flow(t testing.TB, s string) egress.Flow {
	t.Helper()
	f, err := egress.ParseFlow(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
