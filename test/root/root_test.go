// Package root holds what only root outside of all user namespaces can show: the other
// end-to-end tests run as a plain user.
//
// # Theory of operation
//
// The built program, by pasta's name, serves network namespaces that root owns, on a host
// that is a namespace of the test's own. By its own name a plain user runs it, to whom root
// has given subordinate ids, by files that only the test sees. Elsewhere than as root the
// tests are skipped.
package root

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
	"epiphyte/test/harness"
)

// pasta is the program by this name, built for the test.
func pasta(t *testing.T) string { return build(t, "pasta") }

func build(t *testing.T, name string) string {
	t.Helper()
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || os.Getuid() != 0 || strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295" {
		t.Skip("this test is about root outside of all user namespaces")
	}
	program := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-o", program, "epiphyte/cmd/epiphyte")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return program
}

// guest is a process in a network namespace of its own, which root owns.
func guest(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// serve has pasta serve a namespace in the background, and is its process.
func serve(t *testing.T, program string, args ...string) (pid int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pid")
	args = append([]string{"--config-net", "-u", "none", "-T", "none", "-U", "none", "--pid", file}, args...)
	var said bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil || said.Len() > 0 {
		t.Fatalf("pasta %q: %v: %s", args, err, &said)
	}
	text, err := os.ReadFile(file)
	if err == nil {
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(pid, unix.SIGKILL) })
	return pid
}

// ids are a process's user and group numbers, of which all four are the same.
func ids(t *testing.T, pid int) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) == 5 && (f[0] == "Uid:" || f[0] == "Gid:") {
			found = append(found, f[1])
			for _, n := range f[2:] {
				if n != f[1] {
					t.Errorf("%s", line)
				}
			}
		}
	}
	return strings.Join(found, ":")
}

// TestPastaAsRoot: root names namespaces, files and low ports of its own, is somebody else
// when they are served, and the process ends with the namespace. A command is root in a user
// namespace, and nobody outside.
func TestPastaAsRoot(t *testing.T) {
	program := pasta(t)
	for _, c := range []struct {
		name, runas, want string
	}{
		{"nobody", "", "65534:65534"},
		{"numbers", "1234:2345", "1234:2345"},
		{"root", "0:0", "0:0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			testnet.OwnNetwork(t)
			g := guest(t)
			log := filepath.Join(t.TempDir(), "log")
			args := []string{"-t", "127.0.0.1/80", "-l", log, "--netns", fmt.Sprintf("/proc/%d/ns/net", g.Process.Pid)}
			if c.runas != "" {
				args = append([]string{"--runas", c.runas}, args...)
			}
			pid := serve(t, program, args...)
			if got := ids(t, pid); got != c.want {
				t.Errorf("it runs as %s, want %s", got, c.want)
			}
			client, err := net.Dial("tcp4", "127.0.0.1:80")
			switch {
			case err == nil:
				client.Close()
			case !errors.Is(err, unix.ECONNRESET): // there is no server
				t.Errorf("the port below 1024: %v", err)
			}
			if _, err := os.Stat(log); err != nil {
				t.Error(err)
			}
			if err := g.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := harness.Eventually(10*time.Second, func() error {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				if err == nil && !bytes.Contains(stat, []byte(") Z ")) { // nobody may have waited for it yet
					return errors.New("it outlives the namespace")
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("command", func(t *testing.T) {
		testnet.OwnNetwork(t)
		cmd := exec.Command(program, "--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--",
			"sh", "-c", "id -u; read inside outside n </proc/self/uid_map; echo $inside $outside $n")
		said, err := cmd.CombinedOutput()
		if err != nil || string(said) != "0\n0 65534 1\n" {
			t.Errorf("%q, %v", said, err)
		}
	})
}
