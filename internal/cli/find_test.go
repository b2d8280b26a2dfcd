package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// A file that is no network's hides no guest, and is named where they are listed or none is
// found.
func TestGuests_BrokenNetwork(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	dir, err := netdef.GuestsDir()
	if err != nil {
		t.Fatal(err)
	}
	server, err := api.ListenHTTP(t.Context(), filepath.Join(dir, "1"+findSuffix), api.Config{Guest: &api.Guest{Program: 4711, Process: 4712, Command: []string{"sleep"}}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(t.Context()) }()
	t.Cleanup(func() { server.Close(); <-done })
	paths, err := netdef.DefaultPaths()
	if err != nil {
		t.Fatal(err)
	}
	junk := paths.Running().File("junk")
	if err := os.WriteFile(junk, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "4711", "4712"} {
		if list, err := guestsNamed(t.Context(), id); err != nil || len(list) != 1 || list[0].Program != 4711 {
			t.Errorf("guest %q: %+v, %v", id, list, err)
		}
	}
	if list, err := guestsNamed(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), junk) {
		t.Errorf("a guest that may be hidden: %+v, %v", list, err)
	}
	for _, command := range []struct {
		run  func(stdout, stderr io.Writer) int
		says string
	}{
		{func(stdout, stderr io.Writer) int { return psMain(t.Context(), "epiphyte", nil, stdout, stderr) }, "4711"},
		{func(stdout, stderr io.Writer) int {
			n, exit := ParseNetworks("epiphyte", []string{"ls"})
			if exit != nil {
				t.Fatal(exit)
			}
			return n.run(t.Context(), "epiphyte", stdout, stderr)
		}, "SUBNET"},
	} {
		var stdout, stderr bytes.Buffer
		code := command.run(&stdout, &stderr)
		if said := stderr.String(); code != 1 || !strings.Contains(stdout.String(), command.says) || !strings.Contains(said, junk) || strings.Count(said, "\n") != 1 {
			t.Errorf("status %d, %q, %q", code, stdout.String(), said)
		}
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
