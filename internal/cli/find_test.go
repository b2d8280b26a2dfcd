package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/api"
	"epiphyte/internal/netdef"
)

// The socket of a program that is about to listen stays; that of one that was killed goes.
func TestFindGuests_Starting(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	dir, err := netdef.GuestsDir()
	if err != nil {
		t.Fatal(err)
	}
	bound := func(pid int) string {
		path := filepath.Join(dir, fmt.Sprint(pid)+findSuffix)
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	starting, killed := bound(os.Getpid()), bound(ended.Process.Pid)
	if list, err := findGuests(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("found %v, %v", list, err)
	}
	if _, err := os.Lstat(starting); err != nil {
		t.Errorf("the socket of a program that starts: %v", err)
	}
	if _, err := os.Lstat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of a program that was killed: %v", err)
	}
}

// Of several guests it is said whether all run or all have the name that was given.
func TestOnlyGuest(t *testing.T) {
	list := []foundGuest{
		{Guest: &api.Guest{Command: []string{"one"}}, Network: "a", Member: "db"},
		{Guest: &api.Guest{Command: []string{"two"}}, Network: "b", Member: "db"},
	}
	for name, want := range map[string]string{
		"":   "2 guests are running; choose one by --id: a/db (one), b/db (two)",
		"db": `"db" means 2 guests; choose one by --id: a/db (one), b/db (two)`,
	} {
		if _, err := onlyGuest(list, name); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", name, err, want)
		}
	}
	if g, err := onlyGuest(list[:1], "db"); err != nil || g.Network != "a" {
		t.Errorf("%+v, %v", g, err)
	}
}
