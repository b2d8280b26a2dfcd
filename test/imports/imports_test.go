// Package imports holds the direction of the imports, and the way that every
// package explains itself, against the design.
//
// # Theory of operation
//
// The module's source is parsed, nothing is built: a package's imports and
// those of the module's packages it reaches are compared with what the design
// forbids it. Test files may import what they like.
package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "epiphyte"

// source is one package of the module.
type source struct {
	name    string
	imports []string
	doc     string
	files   []*ast.File
}

// load parses every package, keyed by its path below the module.
func load(t *testing.T) map[string]*source {
	t.Helper()
	root := filepath.Join("..", "..")
	all := map[string]*source{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && file != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		key := filepath.ToSlash(dir)
		p := all[key]
		if p == nil {
			p = &source{name: f.Name.Name}
			all[key] = p
		}
		p.files = append(p.files, f)
		p.doc += f.Doc.Text()
		for _, i := range f.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			p.imports = append(p.imports, imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// reach lists what a package imports, by itself or through the module's others.
func reach(all map[string]*source, key string) []string {
	var found []string
	for queue := []string{key}; len(queue) > 0; queue = queue[1:] {
		p := all[queue[0]]
		if p == nil {
			continue
		}
		for _, i := range p.imports {
			if slices.Contains(found, i) {
				continue
			}
			found = append(found, i)
			if own, ok := strings.CutPrefix(i, module+"/"); ok {
				queue = append(queue, own)
			}
		}
	}
	return found
}

// TestImportsPointOneWay: what a package must not know, it does not reach.
func TestImportsPointOneWay(t *testing.T) {
	all := load(t)
	const gvisor = "gvisor.dev/gvisor"
	own := func(names ...string) []string {
		for i, n := range names {
			names[i] = module + "/" + n
		}
		return names
	}
	for key, forbidden := range map[string][]string{
		"tap":                 append(own("stack", "forwarder", "portfwd", "internal/guest", "internal/dns", "internal/dhcp", "internal/api", "internal/cli"), gvisor, "os/exec"),
		"stack":               append(own("tap", "forwarder", "portfwd", "internal/guest", "internal/dns", "internal/dhcp", "internal/api", "internal/cli"), "net", "os/exec"),
		"forwarder":           append(own("tap", "portfwd", "internal/guest", "internal/api", "internal/cli"), "net", "os/exec"),
		"portfwd":             append(own("forwarder", "tap", "internal/guest", "internal/api", "internal/cli"), "encoding/json"),
		"internal/flow":       append(own("tap", "stack", "forwarder", "portfwd", "internal/policy", "internal/connect", "internal/relay", "internal/steer", "internal/guest"), gvisor, "net", "os/exec"),
		"internal/policy":     append(own("tap", "stack", "forwarder", "portfwd", "internal/connect", "internal/relay", "internal/steer", "internal/guest"), gvisor, "net", "os/exec"),
		"internal/connect":    append(own("tap", "stack", "forwarder", "portfwd", "internal/flow", "internal/policy", "internal/relay", "internal/steer", "internal/guest"), gvisor, "net", "os/exec"),
		"internal/steer":      append(own("tap", "forwarder", "portfwd", "internal/flow", "internal/policy", "internal/connect", "internal/relay", "internal/guest"), "net", "os/exec"),
		"internal/bridge":     append(own("tap", "forwarder", "portfwd", "internal/flow", "internal/policy", "internal/connect", "internal/relay", "internal/guest"), "net", "os/exec"),
		"internal/pcap":       append(own("tap", "forwarder", "portfwd", "internal/flow", "internal/policy", "internal/connect", "internal/relay", "internal/steer", "internal/guest"), "net", "os/exec"),
		"internal/testnet":    own("tap", "stack", "forwarder", "portfwd", "internal/relay", "internal/guest"),
		"internal/testworld":  own("tap", "forwarder", "portfwd", "internal/guest"),
		"internal/shard":      append(own("tap", "stack", "forwarder", "portfwd"), gvisor, "net", "os/exec"),
		"internal/addressing": append(own("tap", "stack", "forwarder"), gvisor, "net", "os", "os/exec"),
		"internal/rtnetlink":  append(own("tap", "stack", "forwarder", "portfwd", "internal/shard", "internal/hostnet"), gvisor, "os/exec"),
		"internal/hostnet":    append(own("tap", "stack", "forwarder", "portfwd", "internal/addressing", "internal/policy", "internal/guest"), gvisor, "os/exec"),
		"internal/netdef":     append(own("stack", "tap", "forwarder", "portfwd", "internal/shard"), gvisor, "os/exec"),
		"internal/dns":        append(own("stack", "tap", "forwarder", "portfwd", "internal/relay", "internal/guest"), gvisor, "os/exec"),
		"internal/names":      append(own("tap", "stack", "forwarder", "portfwd", "internal/shard", "internal/dns", "internal/guest"), gvisor, "net", "os", "os/exec", "time"),
		"internal/egress":     append(own("tap", "stack", "forwarder", "portfwd", "internal/shard", "internal/flow", "internal/policy", "internal/dns", "internal/guest"), gvisor, "net", "net/http", "os", "os/exec"),
		"internal/gate":       append(own("tap", "stack", "forwarder", "portfwd", "internal/dns", "internal/relay", "internal/guest", "internal/api", "internal/cli"), gvisor, "net", "os", "os/exec"),
		"internal/proxy":      append(own("tap", "stack", "forwarder", "portfwd", "internal/shard", "internal/flow", "internal/policy", "internal/egress"), gvisor, "net", "net/http", "os", "os/exec"),
		"internal/flowlog":    append(own("tap", "stack", "forwarder", "portfwd", "internal/shard", "internal/gate", "internal/guest"), gvisor, "net", "os", "os/exec"),
		"internal/sniff":      append(own("tap", "stack", "forwarder", "portfwd", "internal/shard", "internal/flow", "internal/policy", "internal/egress", "internal/guest"), gvisor, "net", "net/http", "os", "os/exec", "crypto/tls"),
		"internal/dhcp":       append(own("stack", "tap", "forwarder", "portfwd", "internal/shard"), gvisor, "os/exec"),
		"internal/logfile":    append(own("tap", "stack", "forwarder", "portfwd", "internal/shard"), gvisor, "net", "os/exec"),
		"internal/network":    own("internal/cli", "internal/netavark", "internal/namespace"),
		"internal/netavark":   own("internal/cli", "internal/namespace"),
		"internal/pasta":      append(own("tap", "stack", "forwarder", "portfwd", "internal/shard", "internal/guest", "internal/api", "internal/cli"), gvisor, "os", "os/exec"),
		"internal/forwards":   own("tap", "forwarder", "internal/guest", "internal/api", "internal/cli"),
		"internal/completion": append(own("internal/cli"), gvisor, "os", "os/exec"),
		"internal/doctor":     append(own("stack", "forwarder", "portfwd", "internal/guest", "internal/network", "internal/cli"), gvisor),
		"internal/fdwait":     append(own("tap", "stack", "forwarder", "portfwd", "internal/shard"), gvisor, "net", "os", "os/exec"),
		"internal/nswatch":    append(own("tap", "stack", "forwarder", "portfwd", "internal/shard", "internal/namespace", "internal/cli"), gvisor, "net", "os/exec"),
		"internal/retry":      append(own("tap", "stack", "forwarder", "portfwd", "internal/shard"), gvisor, "net", "os"),
		"internal/guest":      own("tap", "internal/cli", "internal/api"),
		"internal/api":        own("tap", "forwarder", "internal/guest", "internal/cli"), // the stack behind portfwd's rules is no business of its own
		"internal/relay":      append(own("tap", "forwarder", "portfwd", "internal/guest"), "net", "os/exec"),
		"internal/sockdiag":   append(own("tap", "stack", "forwarder", "portfwd", "internal/shard"), gvisor, "net", "os/exec"),
		"internal/sockio":     append(own("tap", "stack", "forwarder", "portfwd", "internal/shard"), gvisor, "net", "os/exec"),
		"internal/sandbox":    append(own("tap", "stack", "forwarder", "portfwd"), gvisor),
		"internal/namespace":  append(own("stack", "forwarder", "portfwd", "internal/guest"), gvisor),
	} {
		if all[key] == nil {
			t.Errorf("there is no package %s", key)
			continue
		}
		for _, imported := range reach(all, key) {
			for _, f := range forbidden {
				if imported == f || f != "net" && f != "os" && strings.HasPrefix(imported, f+"/") {
					t.Errorf("%s reaches %s", key, imported)
				}
			}
		}
	}
}

// TestOnlyCommandsExit: everything else returns an error.
func TestOnlyCommandsExit(t *testing.T) {
	for key, p := range load(t) {
		if p.name == "main" {
			continue
		}
		p.selectors(func(of, name string) {
			if of == "os" && name == "Exit" || of == "log" && strings.HasPrefix(name, "Fatal") {
				t.Errorf("%s calls %s.%s", key, of, name)
			}
		})
	}
}

// selectors calls visit with both sides of every x.name whose x is a name, as of a
// package, and with no left side for others.
func (p *source) selectors(visit func(of, name string)) {
	for _, f := range p.files {
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				of := ""
				if x, ok := sel.X.(*ast.Ident); ok {
					of = x.Name
				}
				visit(of, sel.Sel.Name)
			}
			return true
		})
	}
}

// TestTimeOfDayIsOnlyShown: all that makes a time of the time of day alone, where
// time.Now carries the monotonic clock's too, is where it is known to do no harm. So no
// interval changes when the clock is set.
func TestTimeOfDayIsOnlyShown(t *testing.T) {
	known := []string{
		"internal/api: UTC",            // the Date of a response
		"internal/api: Unix",           // a deadline that is long past
		"internal/dns: Unix",           // likewise; and the time of a file
		"internal/pcap: UnixNano",      // the stamps of frames
		"internal/pcap/pcaptest: Unix", // the same, read
	}
	suspects := map[string][]string{
		"time": {"Unix", "UnixMilli", "UnixMicro", "Date", "Parse", "ParseInLocation"},
		"unix": {"CLOCK_REALTIME", "CLOCK_REALTIME_COARSE", "Gettimeofday", "Time", "TimerfdCreate"},
	}
	methods := []string{"UTC", "UnixNano"} // of a time.Time
	found := map[string]bool{}
	for key, p := range load(t) {
		if strings.HasPrefix(key, "test") {
			continue
		}
		p.selectors(func(of, name string) {
			if slices.Contains(suspects[of], name) || slices.Contains(methods, name) {
				found[key+": "+name] = true
			}
		})
	}
	for _, call := range known {
		if !found[call] {
			t.Errorf("%s is not there any more", call)
		}
		delete(found, call)
	}
	for call := range found {
		t.Errorf("%s reads the time of day: say here why no interval depends on it", call)
	}
}

// TestProgramStartsQuickly: what every start would pay for and few need is not linked, nor
// what brings it.
func TestProgramStartsQuickly(t *testing.T) {
	reached := reach(load(t), "cmd/epiphyte")
	for _, large := range []string{"crypto/tls", "net/http", "github.com/miekg/dns"} {
		if slices.Contains(reached, large) {
			t.Errorf("the program reaches %s", large)
		}
	}
}

// TestNoInitFunctions: what a package does at start, every start pays for.
func TestNoInitFunctions(t *testing.T) {
	for key, p := range load(t) {
		for _, f := range p.files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s has an init function", key)
				}
			}
		}
	}
}

// TestPackagesExplainThemselves in a comment that opens with their name and
// holds a theory of operation.
func TestPackagesExplainThemselves(t *testing.T) {
	for key, p := range load(t) {
		want := "Package " + p.name + " "
		if p.name == "main" {
			want = "Command " + path.Base(key) + " "
			if strings.HasPrefix(p.doc, strings.ToUpper(path.Base(key)[:1])+path.Base(key)[1:]+" ") {
				want = "" // "Epiphyte does ...": Go's own form for commands
			}
		}
		if !strings.HasPrefix(p.doc, want) {
			t.Errorf("the comment of %s does not begin with %q", key, want)
		}
		if !strings.Contains(p.doc, "Theory of operation") {
			t.Errorf("the comment of %s has no theory of operation", key)
		}
	}
}
