package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"epiphyte/internal/pasta"
	"epiphyte/portfwd"
)

// TestClient does the same by both sockets.
func TestClient(t *testing.T) {
	for name, listen := range listeners() {
		path, p, _ := serve(t, listen)
		c := Client{Control: path}
		if name == "http" {
			c = Client{HTTP: path}
		}
		ctx := t.Context()
		rule, err := portfwd.Parse("[::1]:8080-8082:80-82/udp")
		if err != nil {
			t.Fatal(err)
		}
		rule.Guest = netip.MustParseAddr("fd00::7")
		got, err := c.Publish(ctx, rule)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := []Port{{ID: 1, Proto: "udp", HostAddr: "::1", HostPort: 8080, GuestAddr: "fd00::7", GuestPort: 80, HostPortEnd: 8082}}
		if name == "control" {
			want = []Port{
				{ID: 1, Proto: "udp", HostAddr: "::1", HostPort: 8080, GuestAddr: "fd00::7", GuestPort: 80},
				{ID: 2, Proto: "udp", HostAddr: "::1", HostPort: 8081, GuestAddr: "fd00::7", GuestPort: 81},
				{ID: 3, Proto: "udp", HostAddr: "::1", HostPort: 8082, GuestAddr: "fd00::7", GuestPort: 82},
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: published %s", name, diff)
		}
		if got, err := c.Ports(ctx); err != nil || !cmp.Equal(want, got) {
			t.Errorf("%s: ports %v, %v", name, got, err)
		}
		for _, w := range want {
			if err := c.Unpublish(ctx, w.ID); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		var remote *Error
		if err := c.Unpublish(ctx, 1); !errors.As(err, &remote) {
			t.Errorf("%s: removed twice: %v", name, err)
		}
		// Port 81 is in use: nothing of the range is left.
		if _, err := c.Publish(ctx, portfwd.Rule{HostPort: 79, HostPortEnd: 84}); name == "control" && (!errors.As(err, &remote) || len(p.List()) != 0) {
			t.Errorf("%s: half a range: %v, %d left", name, err, len(p.List()))
		}
		if _, err := c.Publish(ctx, portfwd.Rule{HostPort: 81}); !errors.As(err, &remote) {
			t.Errorf("%s: a port in use: %v", name, err)
		}
		if _, err := c.Publish(ctx, portfwd.Rule{}); err == nil || errors.As(err, &remote) {
			t.Errorf("%s: no rule at all: %v", name, err)
		}
	}
}

func TestClientReads(t *testing.T) {
	for name, listen := range listeners() {
		path, _, _ := serve(t, listen)
		c := Client{Control: path}
		if name == "http" {
			c = Client{HTTP: path}
		}
		cfg, _ := testConfig()
		flows, err := c.Flows(t.Context())
		if want := cfg.Flows(); err != nil || !slices.Equal(flows, want) {
			t.Errorf("%s: flows: %v, %v, want %v", name, flows, err, want)
		}
		doc, err := c.Document(t.Context(), StatsDocument)
		if err != nil || string(doc) != `{"uptime_seconds":12,"sent_bytes":{"tcp":1152921504606846976,"udp":2}}` {
			t.Errorf("%s: stats: %s, %v", name, doc, err)
		}
		_, err = c.Publish(t.Context(), portfwd.Rule{Interface: "lo", HostPort: 1})
		if errors.Is(err, ErrNeedsHTTP) != (name == "control") {
			t.Errorf("%s: interface: %v", name, err)
		}
	}
	if _, err := new(Client).Ports(t.Context()); err == nil {
		t.Error("no socket at all")
	}
}

func TestClientForwards(t *testing.T) {
	path, _, _ := serve(t, ListenHTTP)
	c := Client{HTTP: path}
	var many []pasta.Forward
	for port := uint16(10000); port < 15000; port++ { // more than half of what a body holds
		list, err := pasta.ParseLine(fmt.Sprintf("-t [2001:db8:1111:2222:3333:4444:5555:6666]/%d:[2001:db8:1111:2222:3333:4444:5555:6667]/80", port))
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, list...)
	}
	if err := c.ChangeForwards(t.Context(), pasta.Change{Add: many}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Forwards(t.Context()); err != nil || !slices.Equal(got, many) {
		t.Errorf("%d forwards, %v", len(got), err)
	}
	if err := c.ChangeForwards(t.Context(), pasta.Change{Delete: many[1:]}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Forwards(t.Context()); err != nil || !slices.Equal(got, many[:1]) {
		t.Errorf("%v, %v", got, err)
	}
	if err := (&Client{Control: path}).ChangeForwards(t.Context(), pasta.Change{}); !errors.Is(err, ErrNeedsHTTP) {
		t.Error(err)
	}
}

// TestClientOfOthers: replies as slirp4netns gives them, and as nobody should.
func TestClientOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	replies := make(chan string)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for reply := range replies {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadAll(c)
			io.WriteString(c, reply)
			c.Close()
		}
	}()
	defer func() { close(replies); l.Close(); <-done }()
	c := Client{Control: path}
	replies <- `{"entries":[{"id":1,"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}]}`
	if got, err := c.Ports(t.Context()); err != nil || len(got) != 1 || got[0].HostPort != 8080 {
		t.Errorf("%v, %v", got, err)
	}
	for _, reply := range []string{``, `{`, `[]`, `hello`, `{"error":{"desc":"bad request: x"}}`, `{"error":7}`} {
		replies <- reply
		if _, err := c.Ports(t.Context()); err == nil {
			t.Errorf("%q is no error", reply)
		}
	}
	// Nobody accepts this one.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	h := Client{HTTP: path}
	if _, err := h.Ports(ctx); err == nil {
		t.Error("a silent program is no error")
	}
}
