package test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// TestN7_OddFiles: a guest of `run` has the user's files, and may put anything where
// networks look for each other's members. They go on, and so do joins.
func TestN7_OddFiles(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	db, app := n.run(t, "web", "db"), n.run(t, "web", "app")
	db.serveEcho(t)
	pipe := func(path string) error {
		return errors.Join(unix.Mkfifo(path, 0o600), os.Chmod(path, 0o666))
	}
	sparse := func(path string) error {
		return errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o666), os.Truncate(path, 1<<40))
	}
	for name, put := range map[string]func(path string) error{
		"pipe.members":    pipe,
		"sparse.members":  sparse,
		"zero.members":    func(path string) error { return os.Symlink("/dev/zero", path) },
		"self.members":    func(path string) error { return os.Symlink("self.members", path) },
		"dir.members":     func(path string) error { return os.Mkdir(path, 0o777) },
		"web.members.new": pipe,
	} {
		path := n.file(name)
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(path) })
		wantNothing(t, app, "udp4", "never.dns.podman", dns.TypeA, dns.RcodeNameError)
		app.finds(t, db)
	}
	app.finds(t, n.run(t, "web", "late").serving(t))
	listed := struct{ Members []shownMember }{}
	if err := json.Unmarshal(must(os.ReadFile(n.file("web.members")))(t), &listed); err != nil || len(listed.Members) != 3 {
		t.Errorf("listed are %+v, %v, want three members", listed, err)
	}
}

// serving is the member with its servers started.
func (m *member) serving(t testing.TB) *member {
	t.Helper()
	m.serveEcho(t)
	return m
}

// TestN7_GuestsConnections: guests that reach the file of the network's socket are refused,
// and cannot keep others out by connections that they hold.
func TestN7_GuestsConnections(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	app := n.run(t, "web", "app")
	const many = 1200 // more than the network's processes serve at once
	if err := app.Do(func() error {
		for range many {
			c, err := net.Dial("unixpacket", n.file("web.sock"))
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = c.Close() })
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	app.finds(t, n.run(t, "web", "late").serving(t))
	// One that asks is told why it gets nothing.
	eventually(t, deadline, func() error {
		var answer []byte
		if err := app.Do(func() error {
			c, err := net.Dial("unixpacket", n.file("web.sock"))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(`{"op":"stop"}`))
			b := make([]byte, 4096)
			k, readErr := c.Read(b)
			answer = b[:k]
			return errors.Join(err, readErr)
		}); err != nil {
			return err
		}
		var said struct{ Error string }
		if err := json.Unmarshal(answer, &said); err != nil || said.Error == "" {
			t.Fatalf("a guest that asks is told %q", answer)
		}
		return nil
	})
	if members := n.inspect(t, "web").members; len(members) != 2 {
		t.Errorf("%d members, want 2", len(members))
	}
}
