package api

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPatienceEnds: what has come until then is judged as it is.
func TestPatienceEnds(t *testing.T) {
	impatient := func(s *Server) { s.patience, s.keepAlive = 20*time.Millisecond, 40*time.Millisecond }
	path, _, _ := serve(t, ListenControl, impatient)
	for _, said := range []string{"", `{"execute":`} {
		if got := ask(t, path, said); got != `{"error":{"desc":"bad request: cannot parse JSON"}}` {
			t.Errorf("control, %q: %s", said, got)
		}
	}
	path, _, _ = serve(t, ListenHTTP, impatient)
	for _, said := range []string{"", "GET /", "POST /v1/ports HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"} {
		if got := ask(t, path, said); got != "" {
			t.Errorf("http, %q: %s", said, got)
		}
	}
	c := connect(t, path)
	r := bufio.NewReader(c)
	for range 2 { // persistent, and then at rest
		io.WriteString(c, "GET /v1/stats HTTP/1.1\r\n\r\n")
		if status, err := r.ReadString('\n'); err != nil || status != "HTTP/1.1 200 OK\r\n" {
			t.Fatalf("%q, %v", status, err)
		}
		for line := ""; line != "{\"uptime_seconds\":12,\"sent_bytes\":{\"tcp\":1152921504606846976,\"udp\":2}}\n"; {
			var err error
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	}
	if b, err := io.ReadAll(r); err != nil || len(b) != 0 {
		t.Errorf("at rest: %q, %v", b, err)
	}
}

// TestB19_OutOfDescriptors: clients wait until there are some again.
func TestB19_OutOfDescriptors(t *testing.T) {
	path, _, _ := serve(t, ListenHTTP)
	c := connect(t, path)
	r := bufio.NewReader(c)
	get := func() {
		t.Helper()
		io.WriteString(c, "GET /v1/ports HTTP/1.1\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "{\"ports\":[]}\n" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	get()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)

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
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte(httpRequest)); err != nil {
		t.Fatal(err)
	}
	// The one that is connected already is answered.
	get()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1000)
	n, err := unix.Read(fd, b)
	if got := string(b[:max(n, 0)]); err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("%q, %v", got, err)
	}
}
