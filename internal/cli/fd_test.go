package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soon is how long an event may take; never is how long to look for one that
// must not come.
const (
	soon  = 5 * time.Second
	never = 50 * time.Millisecond
)

// pipe returns both ends as numbers, closed at the end of the test if they are
// not before.
func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// wait runs WaitHangup and delivers its result.
func wait(t *testing.T, fd FD) <-chan error {
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		result <- fd.WaitHangup(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return result
}

func expectHangup(t *testing.T, result <-chan error) {
	t.Helper()
	select {
	case err := <-result:
		if err != nil {
			t.Errorf("WaitHangup: %v", err)
		}
	case <-time.After(soon):
		t.Error("no event")
	}
}

func expectNone(t *testing.T, result <-chan error) {
	t.Helper()
	select {
	case err := <-result:
		t.Errorf("unexpected event (%v)", err)
	case <-time.After(never):
	}
}

func TestExitFD_WriterCloses(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	result := wait(t, claim(r))
	expectNone(t, result)
	unix.Close(w)
	expectHangup(t, result)
}

func TestExitFD_ReaderCloses(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(w)
	result := wait(t, claim(w))
	expectNone(t, result)
	unix.Close(r)
	expectHangup(t, result)
}

func TestExitFD_DataIsNoEvent(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	unix.Write(w, []byte("data"))
	result := wait(t, claim(r))
	expectNone(t, result)
	unix.Close(w) // and unread data does not hide the hang-up
	expectHangup(t, result)
}

func TestExitFD_HungUpBefore(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	unix.Close(w)
	expectHangup(t, wait(t, claim(r)))
}

func TestExitFD_NotOpen(t *testing.T) {
	expectHangup(t, wait(t, claim(987)))
}

// A number that was not open when the command line was read stays so, even if
// something of ours gets it later.
func TestExitFD_NumberTakenLater(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(w)
	unix.Close(r)
	fd := claim(r)
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	expectHangup(t, wait(t, fd))
}

func TestExitFD_FilesNeverHangUp(t *testing.T) {
	for _, path := range []string{"/dev/null", filepath.Join(t.TempDir(), "file")} {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		expectNone(t, wait(t, claim(int(f.Fd()))))
	}
}

func TestExitFD_ContextEnds(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- claim(r).WaitHangup(ctx) }()
	cancel()
	select {
	case err := <-result:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("WaitHangup: %v", err)
		}
	case <-time.After(soon):
		t.Error("still waiting")
	}
}

func TestReadyFD_WritesOneByteAndCloses(t *testing.T) {
	r, w := pipe(t)
	defer unix.Close(r)
	fd := claim(w)
	if flags, err := unix.FcntlInt(uintptr(w), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("not close-on-exec (%v)", err)
	}
	fd.Notify()
	buf := make([]byte, 8)
	if n, err := unix.Read(r, buf); n != 1 || buf[0] != '1' || err != nil {
		t.Errorf("read %q, %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Read(r, buf); n != 0 || err != nil {
		t.Errorf("then read %d, %v; want end of file", n, err)
	}
}

// The caller may be gone, and a number that is not open may be ours by now.
func TestReadyFD_ErrorsAreIgnored(t *testing.T) {
	r, err := os.Open("/dev/null") // not writable
	if err != nil {
		t.Fatal(err)
	}
	dup, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	claim(dup).Notify()

	rp, wp := pipe(t)
	unix.Close(wp)
	fd := claim(wp)
	defer unix.Close(rp)
	later, err := unix.FcntlInt(uintptr(rp), unix.F_DUPFD_CLOEXEC, wp)
	if err != nil || later != wp {
		t.Fatalf("dup gave %d, %v", later, err)
	}
	defer unix.Close(later)
	fd.Notify()
	if _, err := unix.FcntlInt(uintptr(later), unix.F_GETFD, 0); err != nil {
		t.Error("a descriptor that was not claimed was closed")
	}
	FD{}.Notify()
}
