package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// checkTime is what one check may take, its clean-up included, unless it says
// otherwise. The slowest of these needs about four seconds on two processors.
const checkTime = 40 * time.Second

// outcome is how a check ended.
type outcome string

const (
	passed  outcome = "PASS"
	failed  outcome = "FAIL"
	skipped outcome = "SKIP"
)

// result is the line that a check gets.
type result struct {
	Name    string
	Outcome outcome
	Detail  string // why, unless it passed
	Seconds float64
}

func (r result) print(w io.Writer) {
	fmt.Fprintf(w, "%s  %-44s %5.1fs", r.Outcome, r.Name, r.Seconds)
	if r.Detail != "" {
		fmt.Fprintf(w, "  %s", strings.ReplaceAll(strings.TrimSpace(r.Detail), "\n", "\n      | "))
	}
	fmt.Fprintln(w)
}

// check is one thing that a caller's user should see.
type check struct {
	name  string // suite/what
	says  string // one clause
	needs []need // the first that is not met skips the check
	run   func(context.Context, *machine) error
	limit time.Duration // what it may take; 0 is checkTime
}

// need gives the reason why a check cannot tell anything here; empty: it can.
type need func(context.Context, *machine) string

// suite is the checks of one caller.
type suite struct {
	needs  []need // of each check, before its own
	checks []check
	// clean removes what a check made, whether it passed or not. What it
	// cannot remove is an error, and fails the check. Nil: nothing to do.
	clean func(context.Context, *machine) error
	// end takes down what the checks shared. Nil: nothing.
	end func(context.Context, *machine) error
}

func suites() []suite {
	return []suite{
		podmanSuite(), bridgeSuite(), pluginSuite("plugin", false), pluginSuite("plugin-root", true), rootlesskitSuite(), dockerSuite(), dockerPolicySuite(),
		pastaSuite(), pastaBridgeSuite(), pastaNextSuite(), pastaKitSuite(), pastaDockerSuite(), pastaBatsSuite(),
		policySuite(), usersSuite(), packageSuite(),
	}
}

// runAll runs the chosen checks in order, each reported as it ends.
func (m *machine) runAll(chosen []check, report func(result) error) error {
	wanted := map[string]bool{}
	for _, c := range chosen {
		wanted[c.name] = true
	}
	for _, s := range suites() {
		ran := false
		for _, c := range s.checks {
			if !wanted[c.name] {
				continue
			}
			ran = true
			c.needs = append(append([]need{}, s.needs...), c.needs...)
			if err := report(m.runOne(c, s.clean)); err != nil {
				return err
			}
		}
		if ran && s.end != nil {
			ctx, cancel := context.WithTimeout(context.Background(), checkTime)
			err := s.end(ctx, m)
			cancel()
			if err != nil {
				return fmt.Errorf("end suite: %w", err)
			}
		}
	}
	return nil
}

func (m *machine) runOne(c check, clean func(context.Context, *machine) error) (r result) {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(c.limit, checkTime))
	defer cancel()
	begin := time.Now()
	r = result{Name: c.name, Outcome: passed}
	defer func() { r.Seconds = time.Since(begin).Seconds() }()
	for _, n := range c.needs {
		if reason := n(ctx, m); reason != "" {
			r.Outcome, r.Detail = skipped, reason
			return r
		}
	}
	err := c.run(ctx, m)
	if clean != nil {
		if cerr := clean(ctx, m); cerr != nil {
			err = errors.Join(err, fmt.Errorf("left behind: %w", cerr))
		}
	}
	if err != nil {
		r.Outcome, r.Detail = failed, err.Error()
	}
	return r
}

// option is the need for an option of the helper, as callers look for it.
func option(name string) need {
	return func(_ context.Context, m *machine) string {
		if m.lists(name) {
			return ""
		}
		return "--help does not list " + name
	}
}

// beyond is the need for our own helper: the one in whose place it is does not do this.
func beyond(_ context.Context, m *machine) string {
	if m.ours {
		return ""
	}
	return "not part of " + filepath.Base(m.helper)
}

// slirp is the need for a helper that can be slirp4netns.
func slirp(_ context.Context, m *machine) string {
	if m.pasta {
		return "the helper is pasta"
	}
	return ""
}

// pasta is the need for a helper that can be pasta.
func pasta(_ context.Context, m *machine) string {
	if m.ours || m.pasta {
		return ""
	}
	return "the helper is not pasta"
}

// program is the need for an installed program.
func program(names ...string) need {
	return func(_ context.Context, m *machine) string {
		for _, n := range names {
			if _, err := m.find(n); err != nil {
				return n + " is not installed"
			}
		}
		return ""
	}
}

// works is the need for something that has nothing to do with helpers, tried
// once per machine.
func works(what string, try func(context.Context, *machine) error) need {
	return func(ctx context.Context, m *machine) string {
		reason, ok := m.tried[what]
		if !ok {
			if err := try(ctx, m); err != nil {
				reason = fmt.Sprintf("%s does not work here, whatever the helper: %v", what, err)
			}
			m.tried[what] = reason
		}
		return reason
	}
}
