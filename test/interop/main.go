package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() { os.Exit(run()) }

// run decides which role this process has.
func run() int {
	if filepath.Base(os.Args[0]) == probeName {
		return probe(os.Args[1:])
	}
	var code int
	var err error
	switch os.Getenv(envStage) {
	case "":
		code, err = setUp()
	case stageInit:
		code, err = initStage()
	case stageRunner:
		code, err = runner()
	case stageNothing:
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "interop: %v\n", err)
		return 1
	}
	return code
}

// setUp is the stage that the user started.
func setUp() (int, error) {
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: interop [-checks PATTERN] [-list] HELPER...\n")
		flag.PrintDefaults()
	}
	pattern := flag.String("checks", "*", "run the checks whose name matches this shell `PATTERN`")
	list := flag.Bool("list", false, "print the names and what they say, and run nothing")
	flag.Parse()
	chosen, err := choose(*pattern)
	if err != nil {
		return 1, err
	}
	if *list {
		for _, c := range chosen {
			fmt.Printf("%-44s %s\n", c.name, c.says)
		}
		return 0, nil
	}
	if flag.NArg() == 0 {
		flag.Usage()
		return 2, nil
	}
	var columns []column
	for _, helper := range flag.Args() {
		c, err := column{helper: helper}, error(nil)
		fmt.Printf("== %s\n", helper)
		if reason := unfit(); reason != "" {
			c.skipAll(chosen, reason)
		} else if c.results, err = onMachine(helper, *pattern); err != nil {
			return 1, fmt.Errorf("%s: %w", helper, err)
		}
		c.count()
		columns = append(columns, c)
	}
	return verdict(chosen, columns), nil
}

// unfit says why no machine can be made here; empty: it can.
func unfit() string {
	if os.Getuid() != 0 {
		return "started as a plain user: only root can make the user, the mounts and the network of the test"
	}
	if err := unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK); err != nil {
		return fmt.Sprintf("/dev/net/tun: %v", err)
	}
	// In a container of a CI service root may not do this.
	if err := stage(stageNothing).Run(); err != nil {
		return fmt.Sprintf("root may not make namespaces here: %v", err)
	}
	return ""
}

// choose gives the checks whose names match a shell pattern in which * matches
// slashes too.
func choose(pattern string) ([]check, error) {
	flat := func(s string) string { return strings.ReplaceAll(s, "/", ":") }
	var chosen []check
	for _, s := range suites() {
		for _, c := range s.checks {
			ok, err := path.Match(flat(pattern), flat(c.name))
			if err != nil {
				return nil, fmt.Errorf("pattern %q: %w", pattern, err)
			}
			if ok {
				chosen = append(chosen, c)
			}
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no check matches %q (-list shows them all)", pattern)
	}
	return chosen, nil
}

// column is what one helper made of the checks.
type column struct {
	helper  string
	results map[string]result
}

func (c *column) skipAll(checks []check, reason string) {
	c.results = map[string]result{}
	for _, k := range checks {
		r := result{Name: k.name, Outcome: skipped, Detail: reason}
		c.results[k.name] = r
		r.print(os.Stdout)
	}
}

// count prints how many checks ended how.
func (c *column) count() {
	n := map[outcome]int{}
	for _, r := range c.results {
		n[r.Outcome]++
	}
	fmt.Printf("-- %s: %d passed, %d failed, %d skipped\n", c.helper, n[passed], n[failed], n[skipped])
}

// verdict shows the helpers side by side, when there are several, and gives
// the exit status, which is the first one's.
func verdict(checks []check, columns []column) int {
	first := columns[0]
	code := 0
	for _, r := range first.results {
		if r.Outcome == failed {
			code = 1
		}
	}
	if len(columns) == 1 {
		return code
	}
	fmt.Printf("\n%-44s", "check")
	for _, c := range columns {
		fmt.Printf(" %-12s", filepath.Base(c.helper))
	}
	fmt.Println()
	for _, k := range checks {
		fmt.Printf("%-44s", k.name)
		ours := first.results[k.name].Outcome
		better := false
		for _, c := range columns {
			got := c.results[k.name].Outcome
			fmt.Printf(" %-12s", got)
			better = better || got == passed && ours != passed
		}
		switch {
		case better && ours == failed:
			fmt.Print(" works with another helper")
		case better:
			fmt.Print(" not offered")
		}
		fmt.Println()
	}
	return code
}

// readResults collects what a runner reports until it closes its end, by name.
func readResults(r io.Reader) (map[string]result, error) {
	results := map[string]result{}
	for d := json.NewDecoder(r); ; {
		var one result
		if err := d.Decode(&one); errors.Is(err, io.EOF) {
			return results, nil
		} else if err != nil {
			return results, fmt.Errorf("read results: %w", err)
		}
		results[one.Name] = one
	}
}
