// Package docs holds what the documents claim against the source: tests that
// are named exist, options that exist are described, links lead somewhere.
//
// # Theory of operation
//
// The documents are read as text and the source is parsed, nothing is built or
// run. A document that says more than the source holds fails; whether it says
// it well is for its readers.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"epiphyte/internal/cli"
)

const root = ".."

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// testsOf gives every test function of the module as "directory.Name".
func testsOf(t *testing.T) map[string]bool {
	t.Helper()
	found := make(map[string]bool)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				found[filepath.ToSlash(dir)+"."+f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestNamedTestsExist: a document names a test as `directory.TestName`.
func TestNamedTestsExist(t *testing.T) {
	tests := testsOf(t)
	named := regexp.MustCompile("`([^`\\s]*\\bTest[A-Z][A-Za-z0-9_]*)`")
	for _, path := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(read(t, path), -1) {
			if !tests[m[1]] {
				t.Errorf("%s names %s, which does not exist", path, m[1])
			}
		}
	}
}

// TestEveryBehaviourHasItsEntry, once and in order, with tests or a word on
// what is missing.
func TestEveryBehaviourHasItsEntry(t *testing.T) {
	var want []string
	for n := 1; n <= 45; n++ {
		if n < 37 || n > 39 { // not given out
			want = append(want, "B"+strconv.Itoa(n))
		}
	}
	for n := 1; n <= 11; n++ {
		want = append(want, "N"+strconv.Itoa(n))
	}
	for n := 1; n <= 14; n++ {
		want = append(want, "P"+strconv.Itoa(n))
	}
	entry := regexp.MustCompile(`(?m)^\*\*([BNP]\d+)\*\* `)
	text := read(t, "behaviours.md")
	at := entry.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		name := text[m[2]:m[3]]
		if i >= len(want) || name != want[i] {
			t.Fatalf("entry %d is %s", i+1, name)
		}
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		body := strings.Join(strings.Fields(text[m[0]:end]), " ")
		if !strings.Contains(body, ".Test") && !strings.Contains(body, "Not there yet") && !strings.Contains(body, "No test yet") {
			t.Errorf("%s has neither a test nor a word on its absence", name)
		}
	}
	if len(at) != len(want) {
		t.Errorf("%d entries, want %d", len(at), len(want))
	}
}

// TestEveryFaultHasItsTest: each row of the tables ends with tests.
func TestEveryFaultHasItsTest(t *testing.T) {
	rows := regexp.MustCompile(`(?m)^\| ([^|]+) \|.*\| ([^|]+) \|$`).FindAllStringSubmatch(read(t, "faults.md"), -1)
	for _, row := range rows {
		if fault, shown := row[1], row[2]; fault != "fault" && !strings.Contains(shown, ".Test") {
			t.Errorf("%s: no test", fault)
		}
	}
	if len(rows) < 20 {
		t.Errorf("%d rows: the tables have another form", len(rows))
	}
}

// TestManualNamesEveryOption of both commands' help.
func TestManualNamesEveryOption(t *testing.T) {
	manual := read(t, "manual.md")
	_, attach := cli.ParseAttach("epiphyte", []string{"--help"})
	_, run := cli.ParseRun("epiphyte", []string{"--help"})
	if attach == nil || run == nil {
		t.Fatal("--help does not end the parsing")
	}
	option := regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z0-9-]+)`)
	_, member := cli.ParseAttachMember("epiphyte", []string{"--help"})
	for _, help := range []string{attach.Stdout, run.Stdout, member.Stdout} {
		found := option.FindAllStringSubmatch(help, -1)
		if len(found) == 0 {
			t.Fatalf("no options in the help:\n%s", help)
		}
		for _, m := range found {
			if !regexp.MustCompile("`" + m[1] + "[`= ]").MatchString(manual) {
				t.Errorf("the manual does not describe %s", m[1])
			}
		}
	}
}

// TestLinksLeadSomewhere: relative links name files of the source tree.
func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:\s]+)(?:#[^)]*)?\)`)
	for _, path := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, path), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
			}
		}
	}
}

func documents(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	behind, err := filepath.Glob("performance/*.md")
	if err != nil {
		t.Fatal(err)
	}
	paths = append(paths, behind...)
	return append(paths, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md"), filepath.Join(root, "CHANGELOG.md"))
}

// Every package has its line in the README.
func TestPackagesAreListed(t *testing.T) {
	readme := read(t, filepath.Join(root, "README.md"))
	packages, err := filepath.Glob(filepath.Join(root, "internal/*"))
	if err != nil || len(packages) == 0 {
		t.Fatalf("found %q, %v", packages, err)
	}
	for _, path := range packages {
		if dir := strings.TrimPrefix(path, root+"/"); !strings.Contains(readme, "`"+dir+"`") {
			t.Errorf("README.md does not name %s", dir)
		}
	}
}
