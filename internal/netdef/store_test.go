package netdef

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func testPaths(t *testing.T) Paths {
	t.Helper()
	dir := t.TempDir()
	return Paths{Runtime: filepath.Join(dir, "run"), Config: filepath.Join(dir, "config", "networks")}
}

// write puts a file of a definition there as an editor would.
func write(t *testing.T, p Paths, name, content string) {
	t.Helper()
	if err := os.MkdirAll(p.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.File(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	p := testPaths(t)
	if _, ok, err := p.Load("web"); ok || err != nil {
		t.Errorf("before anything is saved: found %v, %v", ok, err)
	}
	full := Definition{
		Name: "web", Subnet: netip.MustParsePrefix("10.90.3.0/24"), Subnet6: netip.MustParsePrefix("fd90:0:0:3::/64"),
		MTU: 1500, Internal: true, Isolate: true, NoDNS: true,
	}
	for _, d := range []Definition{full, {Name: "web", IPv4Only: true, AllowHostLoopback: true}, {Name: "web"}} {
		if err := p.Save(d); err != nil {
			t.Fatal(err)
		}
		got, ok, err := p.Load("web")
		if err != nil || !ok || got != d {
			t.Errorf("loaded %+v (%v, %v), saved %+v", got, ok, err, d)
		}
	}
	if b, err := os.ReadFile(p.File("web")); err != nil || string(b) != "{\n  \"name\": \"web\"\n}\n" {
		t.Errorf("the file of a network that leaves everything open is %q (%v)", b, err)
	}
	if info, err := os.Stat(p.File("web")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
	if entries, err := os.ReadDir(p.Config); err != nil || len(entries) != 1 {
		t.Errorf("files left: %v (%v)", entries, err)
	}
	if err := p.Remove("web"); err != nil {
		t.Error(err)
	}
	if _, ok, err := p.Load("web"); ok || err != nil {
		t.Errorf("after it was removed: found %v, %v", ok, err)
	}
	if err := p.Remove("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v, want fs.ErrNotExist", err)
	}
}

func TestSaveRefuses(t *testing.T) {
	p := testPaths(t)
	for _, d := range []Definition{{}, {Name: "../web"}, {Name: "web", MTU: 1}} {
		if err := p.Save(d); err == nil {
			t.Errorf("%+v is saved", d)
		}
	}
	if _, err := os.Stat(p.Config); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a refused definition leaves a directory")
	}
	// A failure leaves nothing beside the file that was there before.
	if err := os.MkdirAll(filepath.Join(p.File("web"), "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Save(Definition{Name: "web"}); err == nil || !strings.Contains(err.Error(), "web") {
		t.Errorf("saved in the place of a directory: %v", err)
	}
	if entries, err := os.ReadDir(p.Config); err != nil || len(entries) != 1 {
		t.Errorf("files left: %v (%v)", entries, err)
	}
}

// A name that leads elsewhere is refused before a file is looked at.
func TestNamesStayInside(t *testing.T) {
	p := testPaths(t)
	write(t, p, "web", `{"name":"web"}`)
	name := "../networks/web"
	if _, ok, err := p.Load(name); ok || err == nil {
		t.Errorf("loaded %v, %v", ok, err)
	}
	if err := p.Remove(name); err == nil {
		t.Error("removed")
	}
	if _, ok, _ := p.Load("web"); !ok {
		t.Error("the definition is gone")
	}
}

func TestLoadRefuses(t *testing.T) {
	p := testPaths(t)
	for _, content := range []string{
		"", "{", "[]", "{}", `{"name":"other"}`, `{"name":"web","internl":true}`, `{"name":"web"} {"name":"web"}`,
		`{"name":"web"}x`, `{"name":"web","subnet":"10.90.3.5/24"}`, `{"name":"web","subnet":"10.90.3.0"}`, `{"name":"web","mtu":"1500"}`,
	} {
		write(t, p, "web", content)
		if d, ok, err := p.Load("web"); ok || err == nil || !strings.Contains(err.Error(), p.File("web")) {
			t.Errorf("%s: %+v, %v, %v; want an error that names the file", content, d, ok, err)
		}
	}
}

// Broken files are told, and hide none of the others.
func TestList(t *testing.T) {
	p := testPaths(t)
	if all, err := p.List(); len(all) > 0 || err != nil {
		t.Errorf("without a directory: %v, %v", all, err)
	}
	for _, d := range []Definition{
		{Name: "web-2", Subnet: netip.MustParsePrefix("10.90.2.0/24")},
		{Name: "web", Subnet: netip.MustParsePrefix("10.90.1.0/24"), Subnet6: netip.MustParsePrefix("fd90:0:0:1::/64")},
		{Name: "Web"},
	} {
		if err := p.Save(d); err != nil {
			t.Fatal(err)
		}
	}
	check := func(all []Definition) {
		t.Helper()
		var names []string
		for _, d := range all {
			names = append(names, d.Name)
		}
		if want := []string{"Web", "web", "web-2"}; !slices.Equal(names, want) {
			t.Errorf("listed %v, want %v", names, want)
		}
	}
	all, err := p.List()
	if err != nil {
		t.Error(err)
	}
	check(all)

	write(t, p, "torn", "{")
	write(t, p, "a name", `{"name":"a name"}`)
	write(t, p, ".web.json.123", "{") // what a crash while saving leaves
	all, err = p.List()
	check(all)
	for _, name := range []string{"torn", "a name"} {
		if err == nil || !strings.Contains(err.Error(), p.File(name)) {
			t.Errorf("%v, want an error that names %s", err, p.File(name))
		}
	}
	if err != nil && strings.Contains(err.Error(), ".123") {
		t.Errorf("a hidden file is told: %v", err)
	}

	taken, err := p.Subnets("web-2")
	if want := prefixes("10.90.1.0/24 fd90:0:0:1::/64"); !slices.Equal(taken, want) || err == nil {
		t.Errorf("others than web-2 take %v (%v), want %v and the errors", taken, err, want)
	}
}

// What a guest has put in the place of a definition is neither waited for nor read without end.
func TestList_OddFiles(t *testing.T) {
	p := testPaths(t)
	write(t, p, "web", `{"name":"web"}`)
	write(t, p, "sparse", "")
	for _, err := range []error{
		syscall.Mkfifo(p.File("pipe"), 0o600), os.Truncate(p.File("sparse"), 1<<40),
		os.Mkdir(p.File("dir"), 0o700), os.Symlink("/dev/zero", p.File("zero")), os.Symlink("web.json", p.File("link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := p.List()
	if len(all) != 1 || all[0].Name != "web" {
		t.Errorf("listed %+v", all)
	}
	for _, name := range []string{"pipe", "sparse", "dir", "zero", "link"} {
		if err == nil || !strings.Contains(err.Error(), p.File(name)) {
			t.Errorf("%v, want an error that names %s", err, p.File(name))
		}
	}
}
