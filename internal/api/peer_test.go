package api

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"epiphyte/internal/testnet"
)

// askEnv makes the test binary a client of the socket that it names.
const askEnv = "EPIPHYTE_TEST_ASK"

func askAsChild(path string) {
	c, err := net.Dial("unix", path)
	if err != nil {
		fmt.Println("dial:", err)
		return
	}
	defer c.Close()
	// The server may refuse before it reads.
	io.WriteString(c, os.Getenv(askEnv+"_REQUEST"))
	c.(*net.UnixConn).CloseWrite()
	b, _ := io.ReadAll(c)
	fmt.Printf("%s", b)
}

// askFrom asks from a process with other attributes.
func askFrom(t *testing.T, path, request string, attr *syscall.SysProcAttr) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Readable to every user, which the directory of a test binary is not.
	public := filepath.Join(filepath.Dir(path), "client")
	if b, err := os.ReadFile(exe); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(public, b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(public)
	cmd.Env = []string{askEnv + "=" + path, askEnv + "_REQUEST=" + request}
	cmd.SysProcAttr = attr
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	var status *exec.ExitError
	if errors.As(err, &status) {
		t.Fatalf("%v\n%s", err, out)
	}
	testnet.NeedNamespaces(t, err)
	return string(out)
}

// openWay lets every user come as far as the socket file.
func openWay(t *testing.T, path string) {
	t.Helper()
	for dir := filepath.Dir(path); strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// openSocket lets every user connect, so that only the checks of the peer are
// left.
func openSocket(t *testing.T, path string) {
	t.Helper()
	openWay(t, path)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
}

const (
	listRequest = `{"execute":"list_hostfwd"}`
	httpRequest = "GET /v1/ports HTTP/1.0\r\n\r\n"
)

// TestB41_OtherUserIsRefused even where the mode of the file would let it in.
func TestB41_OtherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a client of another user needs root to be started")
	}
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	path, _, _ := serve(t, ListenControl)
	openWay(t, path)
	if got := askFrom(t, path, listRequest, nobody); !strings.Contains(got, "permission denied") {
		t.Errorf("by the mode of the file: %s", got)
	}
	openSocket(t, path)
	if got := askFrom(t, path, listRequest, nobody); got != `{"error":{"desc":"bad request: permission denied","cause":"user 65534 is not permitted, only 0 and root are"}}` {
		t.Errorf("control: %s", got)
	}
	if got := askFrom(t, path, listRequest, nil); !strings.HasPrefix(got, `{"return"`) {
		t.Errorf("control, own user: %s", got)
	}
	path, _, _ = serve(t, ListenHTTP)
	openSocket(t, path)
	if got := askFrom(t, path, httpRequest, nobody); !strings.HasPrefix(got, "HTTP/1.1 403 ") {
		t.Errorf("http: %s", got)
	}
}

// TestB41_OtherNetworkIsRefused: a command in namespaces that we made for it has
// our user and our files. This also shows that the kernel gives an accepted
// socket the network namespace of the client.
func TestB41_OtherNetworkIsRefused(t *testing.T) {
	inside := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	path, _, s := serve(t, ListenControl)
	if s.file.netns == 0 {
		t.Skip("the kernel has no SO_NETNS_COOKIE (Linux 5.14)")
	}
	if got := askFrom(t, path, listRequest, inside); !strings.Contains(got, "permission denied") {
		t.Errorf("control: %s", got)
	}
	path, _, _ = serve(t, ListenHTTP)
	if got := askFrom(t, path, httpRequest, inside); !strings.HasPrefix(got, "HTTP/1.1 403 ") {
		t.Errorf("http: %s", got)
	}
	// A user namespace alone is where callers live.
	inside.Cloneflags = syscall.CLONE_NEWUSER
	if got := askFrom(t, path, httpRequest, inside); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("http from a user namespace: %s", got)
	}
}

func TestCheckUser(t *testing.T) {
	for _, tt := range []struct {
		peer, own uint32
		ok        bool
	}{
		{0, 0, true}, {1000, 1000, true}, {0, 1000, true}, {1000, 0, false}, {1001, 1000, false}, {65534, 0, false},
	} {
		if got := checkUser(tt.peer, tt.own) == nil; got != tt.ok {
			t.Errorf("checkUser(%d, %d): %v", tt.peer, tt.own, got)
		}
	}
}
