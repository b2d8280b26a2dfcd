package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestCaptureLastsUntilTheClientEnds it: by closing its direction, and is then given the
// rest.
func TestCaptureLastsUntilTheClientEnds(t *testing.T) {
	path, _, _ := serve(t, ListenHTTP)
	ctx, cancel := context.WithCancel(t.Context())
	var got bytes.Buffer
	err := (&Client{HTTP: path}).Capture(ctx, writerFunc(func(b []byte) (int, error) {
		if got.Write(b); got.String() == "begun 96" {
			cancel()
		}
		return len(b), nil
	}), 96)
	if err != nil || got.String() != "begun 96 ended" {
		t.Errorf("%q, %v", got.String(), err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestCaptureEndsWithTheServer, orderly.
func TestCaptureEndsWithTheServer(t *testing.T) {
	path, _, s := serve(t, ListenHTTP)
	c := connect(t, path)
	io.WriteString(c, "GET /v1/pcap HTTP/1.1\r\n\r\n")
	var head []byte
	for one := make([]byte, 64); !bytes.HasSuffix(head, []byte("begun 0")); {
		n, err := c.Read(one)
		if err != nil {
			t.Fatal(err, string(head))
		}
		head = append(head, one[:n]...)
	}
	if !strings.HasPrefix(string(head), "HTTP/1.1 200 OK\r\n") || !strings.Contains(string(head), "application/x-pcapng") || strings.Contains(string(head), "Content-Length") {
		t.Errorf("%s", head)
	}
	closed := make(chan struct{})
	go func() { s.Close(); close(closed) }()
	if got := rest(t, c); got != " ended" {
		t.Errorf("the rest is %q", got)
	}
	<-closed
}

// TestCaptureRefused: an error before the first byte is a response of its own.
func TestCaptureRefused(t *testing.T) {
	path, _, _ := serve(t, ListenHTTP)
	var refused *Error
	if err := (&Client{HTTP: path}).Capture(t.Context(), io.Discard, 1); !errors.As(err, &refused) || refused.Desc != "too many captures" {
		t.Errorf("got %v", err)
	}
	if err := (&Client{HTTP: path}).Capture(t.Context(), io.Discard, -1); err == nil || !strings.HasPrefix(err.Error(), "snaplen is a number") {
		t.Errorf("got %v", err)
	}
	if err := (&Client{Control: path}).Capture(t.Context(), io.Discard, 0); !errors.Is(err, ErrNeedsHTTP) {
		t.Errorf("got %v", err)
	}
	if got := ask(t, path, "HEAD /v1/pcap HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 OK") || strings.Contains(got, "begun") {
		t.Errorf("HEAD: %s", got)
	}
}

// TestCaptureThatNobodyTakesEnds when its client is gone.
func TestCaptureThatNobodyTakesEnds(t *testing.T) {
	ended := make(chan struct{})
	path, _, _ := serve(t, ListenHTTP, func(s *Server) {
		s.cfg.Capture = func(ctx context.Context, w io.Writer, _ int) error {
			defer close(ended)
			<-ctx.Done()
			return nil
		}
	})
	c := connect(t, path)
	io.WriteString(c, "GET /v1/pcap HTTP/1.1\r\n\r\n")
	c.Close()
	<-ended
}
