package cli

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/tap"
)

// session is an attach command being run on a frame socket: a descriptor that
// carries one frame per message serves as the TAP, so no privilege is needed.
type session struct {
	peer   int // the guest's end of the "TAP"
	ready  int // read end of the ready pipe
	exit   int // write end of the exit pipe
	stdout buffer
	stderr buffer
	code   chan int
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func attach(t *testing.T, ctx context.Context) *session {
	t.Helper()
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{peer: sp[1], code: make(chan int, 1)}
	a := attachDefaults(t)
	a.Target = tap.Target{FD: sp[0]}
	a.Name = ""
	a.Unconfined = true // for it would be the tests' own process
	var r, w int
	s.ready, r = pipe(t)
	w, s.exit = pipe(t)
	a.ReadyFD, a.ExitFD = claim(r), claim(w)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.code <- a.run(ctx, "epiphyte", &s.stdout, &s.stderr)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		for _, fd := range []int{sp[0], w, s.ready} {
			unix.Close(fd)
		}
	})
	return s
}

// waitReady blocks until the ready byte and the end of file after it.
func (s *session) waitReady(t *testing.T) {
	t.Helper()
	b := make([]byte, 2)
	if n, err := unix.Read(s.ready, b); n != 1 || b[0] != '1' {
		t.Fatalf("ready fd: %d bytes, %v; stderr %q", n, err, s.stderr.String())
	}
	if n, err := unix.Read(s.ready, b); n != 0 {
		t.Fatalf("ready fd stays open: %d, %v", n, err)
	}
}

func (s *session) expectCode(t *testing.T, want int) {
	t.Helper()
	select {
	case code := <-s.code:
		if code != want {
			t.Errorf("exit code %d, want %d; stderr %q", code, want, s.stderr.String())
		}
	case <-time.After(soon):
		t.Fatal("it does not end")
	}
}

func TestAttach_ReadyThenExitFD(t *testing.T) {
	s := attach(t, t.Context())
	defer unix.Close(s.peer)
	s.waitReady(t)
	if !strings.HasPrefix(s.stdout.String(), "Starting slirp\n") {
		t.Errorf("stdout %q", s.stdout.String())
	}
	select {
	case code := <-s.code:
		t.Fatalf("ended with %d by itself; stderr %q", code, s.stderr.String())
	case <-time.After(never):
	}
	unix.Close(s.exit)
	s.expectCode(t, 0)
	if s.stderr.String() != "" {
		t.Errorf("stderr %q", s.stderr.String())
	}
}

func TestAttach_ContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := attach(t, ctx)
	defer unix.Close(s.peer)
	defer unix.Close(s.exit)
	s.waitReady(t)
	cancel()
	select {
	case code := <-s.code:
		if strings.Contains(s.stderr.String(), "gone") {
			t.Errorf("code %d, stderr %q", code, s.stderr.String())
		}
	case <-time.After(soon):
		t.Fatal("it does not end")
	}
}
