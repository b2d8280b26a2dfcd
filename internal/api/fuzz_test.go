package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// discreet is a server without a socket.
func discreet() *Server {
	cfg, p := testConfig()
	close(p.Hold)
	return &Server{cfg: cfg, log: slog.New(slog.DiscardHandler)}
}

// socketPair is a client's connection and the server's end of it.
func socketPair(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []**net.UnixConn{&client, &server} {
		file := os.NewFile(uintptr(fds[i]), "socket pair")
		nc, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		*c = nc.(*net.UnixConn)
	}
	return client, server
}

// FuzzControlRequest: every reply is one object with either a return or an error,
// and nothing that was refused is published.
func FuzzControlRequest(f *testing.F) {
	for _, s := range []string{
		`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}}`,
		`{"execute":"remove_hostfwd","arguments":{"id":1}}`,
		`{"execute":"list_hostfwd"}`, `{"execute":"list_flows"}`, `{"execute":"show_stats"}`,
		`{"execute":"add_hostfwd"}`,
		`{"a":"\"}\\"}{}`, `[]`, `{"a":1e999}`, "\x00", `{"\u0000":[[[[`, `nul`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Add(bytes.Repeat([]byte(" "), maxMessage))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > 2*maxMessage {
			return // more than the socket takes at once
		}
		s := discreet()
		client, server := socketPair(t)
		client.Write(msg)
		client.CloseWrite()
		r := (&conn{UnixConn: server, server: s, waiting: true}).replyControl(t.Context())
		var o map[string]json.RawMessage
		if err := json.Unmarshal(r, &o); err != nil {
			t.Fatalf("%q: reply %q: %v", msg, r, err)
		}
		if (o["return"] == nil) == (o["error"] == nil) {
			t.Errorf("%q: reply %s", msg, r)
		}
		published := s.cfg.Ports.List()
		if len(published) > 1 || len(published) == 1 && o["return"] == nil {
			t.Errorf("%q: published %v, reply %s", msg, published, r)
		}
		for _, e := range published {
			if err := e.Rule.Validate(); err != nil || e.Rule.HostPortEnd != 0 {
				t.Errorf("%q: published %v: %v", msg, e.Rule, err)
			}
		}
	})
}

// FuzzHTTPRequest: reading ends, within the bounds, with a request or an error.
func FuzzHTTPRequest(f *testing.F) {
	for _, s := range []string{
		"GET /v1/ports HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"POST /v1/ports?id=1 HTTP/1.0\nContent-Length: 16\nExpect: 100-continue\n\n{\"rule\":\"80:80\"}",
		"DELETE http://x/v1/ports/1 HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		req, err := readRequest(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(msg), io.Discard})
		var bad *requestError
		switch {
		case errors.As(err, &bad):
			if !strings.HasPrefix(bad.status, "4") && bad.status != statusBadVersion {
				t.Errorf("%q: status %s", msg, bad.status)
			}
			return
		case err != nil:
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Errorf("%q: %v", msg, err)
			}
			return
		}
		if !strings.HasPrefix(req.url.Path, "/") || len(req.body) > maxBody {
			t.Errorf("%q: %+v", msg, req)
		}
		b := discreet().route(t.Context(), req).encode(req.method)
		if _, err := responseBody(b); err != nil && req.method != "HEAD" {
			t.Errorf("%q: response %q: %v", msg, b, err)
		}
	})
}
