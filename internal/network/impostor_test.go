package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
)

// envImpostor is where a process listens that is no network's.
const envImpostor = "EPIPHYTE_TEST_IMPOSTOR"

// impostor listens until its standard input ends.
func impostor(path string) int {
	l, err := listen(path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer l.Close()
	fmt.Println("listening")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// listensIn has an impostor listen at path, in new namespaces. It ends with the test.
func listensIn(t *testing.T, path string, namespaces uintptr) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envImpostor+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if namespaces&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "listening\n" {
		t.Fatalf("the impostor says %q, %v", line, err)
	}
}

// TestGuestsAreNoNetworks: nobody joins at a socket that a guest has put in the place of a
// network's, or sends it anything. A network's process may be in another user namespace
// than its clients, or in another network namespace.
func TestGuestsAreNoNetworks(t *testing.T) {
	testnet.CheckLeaks(t)
	for name, tc := range map[string]struct {
		namespaces uintptr
		want       error
	}{
		"none of its own":  {0, nil},
		"a user namespace": {unix.CLONE_NEWUSER, nil},
		"a guest":          {unix.CLONE_NEWUSER | unix.CLONE_NEWNET, errImpostor},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sock")
			listensIn(t, path, tc.namespaces)
			c, err := Dial(path)
			if !errors.Is(err, tc.want) {
				t.Errorf("connecting: %v, want %v", err, tc.want)
			}
			if err == nil {
				c.Close()
			}
			if tc.want == nil {
				return
			}
			start := func(context.Context) error { t.Error("the network is started"); return nil }
			if _, _, err := Open(t.Context(), path, start); !errors.Is(err, tc.want) {
				t.Errorf("opening: %v, want %v", err, tc.want)
			}
		})
	}
}
