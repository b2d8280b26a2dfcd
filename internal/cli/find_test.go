package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

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
