package subid

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestBlocks(t *testing.T) {
	t.Setenv("USER", "somebody")
	file := filepath.Join(t.TempDir(), "subuid")
	const text = "# 1\nother:100000:65536\nsomebody:300000:10\n98765:200000:65536\nsomebody:x:1\nsomebody:1\nsomebody:500000:0\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := read(98765, file, file+"none")
	if want := []Block{{300000, 10}, {200000, 65536}}; !slices.Equal(a.Users, want) || a.Groups != nil {
		t.Errorf("%+v", a)
	}
	if got := a.remedy(65536); got != "usermod --add-subuids 300010-365545 --add-subgids 300010-365545 somebody" {
		t.Error(got)
	}
	t.Setenv("USER", "")
	if got := read(98765, file, file).remedy(10); got != "echo 98765:300010:10 | tee -a /etc/subuid /etc/subgid" {
		t.Error(got)
	}
}

func TestLackOfPrograms(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	a := Account{Users: []Block{{1, 1}}, Groups: []Block{{1, 1}}}
	if lack := a.Lack(1, 1); lack == nil || !strings.Contains(lack.Remedy, "uidmap") {
		t.Errorf("%+v", lack)
	}
	for _, name := range []string{NewUIDMap, NewGIDMap} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if lack := a.Lack(1, 1); lack == nil || lack.Remedy != "chmod u+s "+path {
			t.Errorf("%+v", lack)
		}
		if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
			t.Fatal(err)
		}
	}
	if lack := a.Lack(1, 1); lack != nil {
		t.Errorf("%+v", lack)
	}
	if lack := a.Lack(2, 2); lack == nil || !strings.Contains(lack.Text, "/etc/subuid") {
		t.Errorf("%+v", lack)
	}
}
