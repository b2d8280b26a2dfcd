package egress

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/publicsuffix"
)

var update = flag.Bool("update", false, "write suffixes.txt anew, after golang.org/x/net has moved")

// rulesOfLibrary are all rules that golang.org/x/net/publicsuffix has, from the table by
// which it is tested.
func rulesOfLibrary(t *testing.T) []string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "golang.org/x/net/publicsuffix").Output()
	if err != nil {
		t.Fatalf("find the library: %v", err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "table_test.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != "rules" {
			return true
		}
		for _, e := range spec.Values[0].(*ast.CompositeLit).Elts {
			s, err := strconv.Unquote(e.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			rules = append(rules, s)
		}
		return false
	})
	slices.Sort(rules)
	return rules
}

// The list is the library's, rule for rule.
func TestSuffixesAreTheLibrarys(t *testing.T) {
	rules := rulesOfLibrary(t)
	if len(rules) < 5000 {
		t.Fatalf("the library has %d rules", len(rules))
	}
	want := strings.Join(rules, "\n") + "\n"
	if *update {
		if err := os.WriteFile("suffixes.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if suffixes != want {
		t.Error("suffixes.txt differs from the library's rules: go test ./internal/egress -run Suffixes -update")
	}
	for _, r := range rules {
		if name := strings.TrimLeft(r, "!*."); strings.Contains(name, ".") {
			for _, n := range []string{name, "a." + name, "b.a." + name} {
				s, _ := publicsuffix.PublicSuffix(n)
				below, _ := publicsuffix.PublicSuffix("x." + n) // of a rule with a star
				if got, want := strangersBelow(n), s == n || below == "x."+n; got != want {
					t.Fatalf("strangers below %s: %v; the library has it %v (%s, rule %s)", n, got, want, s, r)
				}
			}
		}
	}
}

// Where a star is refused, and where not.
func TestStrangersBelow(t *testing.T) {
	for name, want := range map[string]bool{
		"com": true, "co.uk": true, "github.io": true, "s3.amazonaws.com": true, "notyet": true,
		"foo.ck": true, "www.ck": false, "kobe.jp": true, "a.kobe.jp": true, "city.kobe.jp": false,
		"github.com": false, "corp.internal": false, "internal": false, "local": false, "bbc.co.uk": false,
		"zzz.zzz": false, "a.a": false,
	} {
		if got := strangersBelow(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
