package api

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPatienceEnds: a request that does not arrive in time is judged as it is.
func TestPatienceEnds(t *testing.T) {
	impatient := func(s *Server) { s.patience = 20 * time.Millisecond }
	path, _, _ := serve(t, ListenControl, impatient)
	for _, sent := range []string{"", `{"execute":`} {
		if got := ask(t, path, sent); got != `{"error":{"desc":"bad request: cannot parse JSON"}}` {
			t.Errorf("control, %q: %s", sent, got)
		}
	}
	path, _, _ = serve(t, ListenHTTP, impatient)
	for _, sent := range []string{"", "GET /", "POST /v1/ports HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"} {
		if got := ask(t, path, sent); got != "" {
			t.Errorf("http, %q: %s", sent, got)
		}
	}
}

// TestIdleClients: clients that send nothing, or half a request, do not delay
// others, however many they are.
func TestIdleClients(t *testing.T) {
	requests := map[string]string{"control": listRequest, "http": httpRequest}
	for name, listen := range listeners() {
		path, _, _ := serve(t, listen)
		before := openFiles(t)
		for i := range 3 * maxConns {
			c := connect(t, path)
			if i%2 == 0 {
				io.WriteString(c, requests[name][:10])
			}
		}
		start := time.Now()
		if got := ask(t, path, requests[name]); !strings.Contains(got, "[]") {
			t.Errorf("%s: %s", name, got)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: took %v beside idle clients", name, took)
		}
		// This process has the 3*maxConns+1 clients, too.
		if n := openFiles(t) - before; n > 3*maxConns+1+maxConns+2 {
			t.Errorf("%s: %d descriptors more", name, n)
		}
	}
}

// TestB19_OutOfDescriptors: clients wait until there are some again, and those that
// are connected are answered.
func TestB19_OutOfDescriptors(t *testing.T) {
	path, _, _ := serve(t, ListenHTTP)
	connected := connect(t, path)
	io.WriteString(connected, "POST /v1/ports HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n")
	const proceed = "HTTP/1.1 100 Continue\r\n\r\n"
	if _, err := io.ReadFull(connected, make([]byte, len(proceed))); err != nil {
		t.Fatal(err)
	}
	late, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(late)

	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = uint64(openFiles(t)) + 20
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	for {
		f, err := os.Open("/dev/null")
		if err != nil {
			break
		}
		files = append(files, f)
	}
	if err := unix.Connect(late, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(late, []byte(httpRequest)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(connected, `{"rule":"80"}`)
	if got := rest(t, connected); !strings.HasPrefix(got, "HTTP/1.1 201 ") {
		t.Errorf("connected: %q", got)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1000)
	n, err := unix.Read(late, b)
	if got := string(b[:max(n, 0)]); err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("%q, %v", got, err)
	}
}
