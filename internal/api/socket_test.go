package api

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestB41_ModeIs0600 whatever the umask is.
func TestB41_ModeIs0600(t *testing.T) {
	for name, listen := range listeners() {
		for _, mask := range []int{0, 0o777} {
			path := filepath.Join(t.TempDir(), "s")
			cfg, _ := testConfig()
			old := unix.Umask(mask)
			s, err := listen(t.Context(), path, cfg)
			unix.Umask(old)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if want := fs.FileMode(0o600&^mask) | fs.ModeSocket; info.Mode() != want {
				t.Errorf("%s: mode %v with umask %o", name, info.Mode(), mask)
			}
			s.Close()
		}
	}
}

func listeners() map[string]listenFunc {
	return map[string]listenFunc{"control": ListenControl, "http": ListenHTTP}
}

// TestStaleSocketIsReplaced, and nothing that is not a socket is.
func TestStaleSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	cfg, _ := testConfig()
	killed, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	killed.SetUnlinkOnClose(false)
	killed.Close()
	old, err := ListenControl(t.Context(), path, cfg)
	if err != nil {
		t.Fatalf("beside a socket that nobody listens on: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s, err := ListenControl(t.Context(), path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	// The predecessor leaves its successor's file alone.
	old.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the predecessor removed the socket: %v", err)
	}
	s.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Close left the socket: %v", err)
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := ListenControl(t.Context(), path, cfg); err == nil {
		s.Close()
		t.Error("a file was replaced")
	}
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file was touched: %q, %v", b, err)
	}
}

// TestLiveSocketIsNotTakenOver, unless its owner is about to go.
func TestLiveSocketIsNotTakenOver(t *testing.T) {
	for name, listen := range listeners() {
		path := filepath.Join(t.TempDir(), "s")
		cfg, _ := testConfig()
		owner, err := listen(t.Context(), path, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := listen(t.Context(), path, cfg); err == nil || !strings.Contains(err.Error(), path+": another process listens there") {
			s.Close()
			t.Errorf("%s: taken over, %v", name, err)
		}
		connect(t, path).Close() // still the owner's
		time.AfterFunc(100*time.Millisecond, func() { owner.Close() })
		s, err := listen(t.Context(), path, cfg)
		if err != nil {
			t.Fatalf("%s: beside an owner that goes: %v", name, err)
		}
		s.Close()
	}
}

func TestPathsThatCannotBe(t *testing.T) {
	cfg, _ := testConfig()
	dir := t.TempDir()
	long := filepath.Join(dir, strings.Repeat("x", 108-len(dir)-1))
	if _, err := ListenControl(t.Context(), long, cfg); !errors.Is(err, ErrPathTooLong) || err.Error() != "the specified API socket path is too long (>= 108)" {
		t.Errorf("108 bytes: %v", err)
	}
	s, err := ListenControl(t.Context(), long[:107], cfg)
	if err != nil {
		t.Fatalf("107 bytes: %v", err)
	}
	connect(t, long[:107])
	s.Close()
	for _, path := range []string{"", "@abstract", filepath.Join(dir, "none", "s"), dir} {
		if s, err := ListenControl(t.Context(), path, cfg); err == nil {
			s.Close()
			t.Errorf("%q is listened on", path)
		}
	}
}

// TestClientsBeforeServe wait until they are served.
func TestClientsBeforeServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	cfg, _ := testConfig()
	s, err := ListenControl(t.Context(), path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, path)
	c.Write([]byte(`{"execute":"list_hostfwd"}`))
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background()) }()
	if got := rest(t, c); !strings.HasPrefix(got, `{"return"`) {
		t.Error(got)
	}
	s.Close()
	s.Close()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("a closed server accepts")
	}
}

// TestCloseEndsEveryone: idle clients, half requests and requests under way.
func TestCloseEndsEveryone(t *testing.T) {
	for name, listen := range listeners() {
		before := openFiles(t)
		path := filepath.Join(t.TempDir(), "s")
		cfg, p := testConfig()
		s, err := listen(t.Context(), path, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx) }()
		var conns []net.Conn
		for i := range 12 {
			c := connect(t, path)
			switch i % 3 {
			case 1:
				c.Write([]byte(`{"exe`))
			case 2:
				c.Write([]byte("POST /v1/ports HTTP/1.1\r\nContent-Length: 16\r\n\r\n" + `{"host_port":83}`))
			}
			conns = append(conns, c)
		}
		start := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: Serve: %v", name, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: closing took %v", name, took)
		}
		for _, c := range conns {
			c.Close()
		}
		if n := openFiles(t) - before; n > 0 {
			t.Errorf("%s: %d descriptors left", name, n)
		}
		if len(p.List()) != 0 {
			t.Errorf("%s: published after the end", name)
		}
	}
}
