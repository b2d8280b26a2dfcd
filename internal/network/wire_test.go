package network

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
)

// ends are two ends of a connection.
func ends(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	a, file, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	b = c.(*net.UnixConn)
	t.Cleanup(func() { a.Close(); b.Close() })
	deadline := time.Now().Add(10 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	return a, b
}

// TestMessagesCarryDescriptors, in order, each its own.
func TestMessagesCarryDescriptors(t *testing.T) {
	testnet.CheckLeaks(t)
	a, b := ends(t)
	for i, text := range []string{"first", "second"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := send(a, request{Op: opLeave, Who: text}, int(w.Fd()), int(w.Fd())); err != nil {
			t.Fatal(err)
		}
		w.Close()
		var got request
		fds, err := receive(b, &got)
		if err != nil || got.Who != text || len(fds) != 2 {
			t.Fatalf("message %d: %+v, %v, %v", i, got, fds, err)
		}
		for _, fd := range fds {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("message %d: children inherit its descriptors: %#x, %v", i, flags, err)
			}
		}
		unix.Write(fds[1], []byte(text))
		closeAll(fds)
		if got, err := io.ReadAll(r); err != nil || string(got) != text {
			t.Errorf("message %d: %q came by its descriptor, %v", i, got, err)
		}
	}
	a.Close()
	if _, err := receive(b, &request{}); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// TestLongestMessage passes at once, and a longer one is refused on either side.
func TestLongestMessage(t *testing.T) {
	testnet.CheckLeaks(t)
	a, b := ends(t)
	long := request{Op: opLeave, Who: strings.Repeat("x", maxMessage-100)}
	if err := send(a, long); err != nil {
		t.Fatal(err)
	}
	var got request
	if _, err := receive(b, &got); err != nil || got.Who != long.Who {
		t.Errorf("%d bytes, %v", len(got.Who), err)
	}
	long.Who += strings.Repeat("x", 100)
	if err := send(a, long); err == nil {
		t.Error("one that is too long was sent")
	}
	if _, err := a.Write(bytes.Repeat([]byte("x"), maxMessage+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(b, &got); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("one that is too long: %v", err)
	}
}

// TestWrongMessages leave no descriptor behind.
func TestWrongMessages(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		fds  int
	}{
		"no JSON":              {"hello", 1},
		"another type":         {`{"op":7}`, 2},
		"too many descriptors": {`{"op":"info"}`, 60},
	} {
		t.Run(name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			a, b := ends(t)
			var fds []int
			for range tc.fds {
				fds = append(fds, 0)
			}
			if _, _, err := a.WriteMsgUnix([]byte(tc.text), unix.UnixRights(fds...), nil); err != nil {
				t.Fatal(err)
			}
			if got, err := receive(b, &request{}); err == nil {
				t.Errorf("received, with %v", got)
			}
		})
	}
}

// TestPathsOfSocketsAreBounded by the kernel, which is said by either side.
func TestPathsOfSocketsAreBounded(t *testing.T) {
	dir, err := os.MkdirTemp("", "net")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, strings.Repeat("x", 107-len(dir)-1))
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for side, err := range map[string]error{
		"listen": func() error { _, err := listen(path + "x"); return err }(),
		"dial":   func() error { _, err := Dial(path + "x"); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), "XDG_RUNTIME_DIR") {
			t.Errorf("%s: %v", side, err)
		}
	}
}

// TestLockIsOnes: it is another's when its holder has gone, however it went.
func TestLockIsOnes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := takeLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := takeLock(path); err != ErrRunning {
		t.Errorf("taken twice: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		second, err := waitForLock(t.Context(), path)
		if err == nil {
			second.Close()
		}
		got <- err
	}()
	first.Close()
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("whoever waits does not get it")
	}
}
