package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// literals are the strings of the program's source that are long enough to be recognized.
func literals(t *testing.T) (all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || path == filepath.Join(root, "test")):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil {
					all = append(all, s)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// pattern is a format as what it may become, empty if it says too little by itself.
func pattern(format string) string {
	verb := regexp.MustCompile(`%[-+#0-9.]*[a-zA-Z]`)
	said := verb.ReplaceAllString(format, "")
	if said == format && strings.HasSuffix(format, " ") { // a name is added
		format += "%s"
	}
	if len(strings.Trim(said, " :;,()\"")) < 4 {
		return ""
	}
	var b strings.Builder
	for i, part := range verb.Split(format, -1) {
		if i > 0 {
			b.WriteString(".+")
		}
		b.WriteString(regexp.QuoteMeta(part))
	}
	return b.String()
}

// printed reports whether the source, or the kernel's errnos, can say a part of a message.
func printed(part string, source []string, patterns []*regexp.Regexp) bool {
	for errno := syscall.Errno(1); errno < 134; errno++ {
		if part == errno.Error() {
			return true
		}
	}
	for _, s := range source {
		if strings.Contains(s, part) {
			return true
		}
	}
	for _, p := range patterns {
		if p.MatchString(part) {
			return true
		}
	}
	return false
}

// TestDiagnosticsArePrinted: what the manual's and the troubleshooting tables quote, part by
// part between colons and what is left out, is what the program can say.
func TestDiagnosticsArePrinted(t *testing.T) {
	source := literals(t)
	between := regexp.MustCompile(`…|\.\.\.|: | \(|\)`)
	var patterns []*regexp.Regexp
	for _, s := range source {
		for _, part := range between.Split(s, -1) {
			if p := pattern(part); p != "" {
				patterns = append(patterns, regexp.MustCompile("^(?:"+p+")$"))
			}
		}
	}
	_, diagnostics, ok := strings.Cut(read(t, "manual.md"), "\n## Diagnostics\n")
	if !ok {
		t.Fatal("the manual has no diagnostics")
	}
	diagnostics, _, _ = strings.Cut(diagnostics, "\n## ")
	_, start, _ := strings.Cut(read(t, "troubleshooting.md"), "\n## It does not start\n")
	start, _, _ = strings.Cut(start, "\n## ")
	quoted := regexp.MustCompile("(?m)^\\| (?:warning )?`([^`]+)`")
	rows := quoted.FindAllStringSubmatch(diagnostics+start, -1)
	if len(rows) < 30 {
		t.Fatalf("%d messages", len(rows))
	}
	for _, row := range rows {
		for _, part := range between.Split(row[1], -1) {
			part = strings.TrimPrefix(strings.Trim(part, " ,;"), "open /") // as package os says it
			if len(part) > 3 && !printed(part, source, patterns) {
				t.Errorf("%q: the program does not say %q", row[1], part)
			}
		}
	}
}
