package network

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"epiphyte/internal/testnet"
)

// hall is a network's process as clients see it, made of the test's own words.
type hall struct {
	t    *testing.T
	path string
	l    *net.UnixListener
}

func newHall(t *testing.T) *hall {
	h := &hall{t: t, path: filepath.Join(t.TempDir(), "sock")}
	h.opens()
	t.Cleanup(func() { h.l.Close() })
	return h
}

// opens begins to take clients, again after ends.
func (h *hall) opens() {
	h.t.Helper()
	l, err := listen(h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	l.SetDeadline(time.Now().Add(10 * time.Second))
	h.l = l
}

// takes serves a client until its join has been answered, by that it is in.
func (h *hall) takes(answer reply) (*net.UnixConn, Member) {
	h.t.Helper()
	c, err := h.l.AcceptUnix()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		var r request
		fds, err := receive(c, &r)
		if err != nil {
			h.t.Fatal(err)
		}
		closeAll(fds)
		if r.Op != opJoin {
			send(c, reply{Info: &Info{}})
			continue
		}
		if len(fds) != 1 {
			h.t.Errorf("a join with %d descriptors", len(fds))
		}
		if answer.Error == "" {
			answer.Member = r.Member
		}
		if err := send(c, answer); err != nil {
			h.t.Fatal(err)
		}
		return c, *r.Member
	}
}

// holds joins and holds a membership, and gives the hall's end of the connection.
func (h *hall) holds(start Starter, log *logBuffer) (*Holder, *net.UnixConn) {
	h.t.Helper()
	conns := make(chan *net.UnixConn, 1)
	go func() { conn, _ := h.takes(reply{}); conns <- conn }()
	c, _, err := Open(h.t.Context(), h.path, start)
	if err != nil {
		h.t.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { null.Close() })
	granted, _, err := c.Join(h.t.Context(), held, Handover{TAP: int(null.Fd())})
	if err != nil {
		h.t.Fatal(err)
	}
	return Hold(c, Handover{TAP: int(null.Fd())}, *granted, slog.New(slog.NewTextHandler(log, nil))), <-conns
}

// held is a member with everything that it is to come back with.
var held = Member{
	ID: "1", Name: "db", Aliases: []string{"postgres"}, MAC: "02:00:00:00:00:01", Interface: "eth0",
	IPv4: netip.MustParseAddr("10.90.0.2"), IPv6: netip.MustParseAddr("fd90::2"),
	Publish: []string{"8080:80"}, Since: time.Unix(1_000_000_000, 0).UTC(),
}

// TestHolderJoinsAgain, as what it was, when the connection ends: at a network that is
// there again by itself, or that it has to start, or that refuses it at first.
func TestHolderJoinsAgain(t *testing.T) {
	testnet.CheckLeaks(t)
	h := newHall(t)
	log := &logBuffer{}
	started := make(chan struct{}, 100)
	start := func(context.Context) error { started <- struct{}{}; return nil }
	holder, conn := h.holds(start, log)
	want := held
	want.TakesPolicy = true // as any of its kind
	wantHeld := func(m Member) {
		t.Helper()
		if diff := cmp.Diff(want, m, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("it comes back as another (-was +is)\n%s", diff)
		}
	}

	conn.Close()
	conn, m := h.takes(reply{})
	wantHeld(m)

	h.l.Close()
	conn.Close()
	<-started
	h.opens()
	refusing, _ := h.takes(reply{Error: "not yet"})
	refusing.Close()
	conn, m = h.takes(reply{})
	wantHeld(m)
	if !strings.Contains(log.String(), "not yet") {
		t.Errorf("the log says %q", log)
	}

	select {
	case <-holder.Ended():
		t.Error("it has ended")
	default:
	}
	holder.Close()
	if _, err := receive(conn, &request{}); err == nil {
		t.Error("the connection outlives Close")
	}
}

// TestJoinOfANetworkThatEnds: whoever joins while the network's process is replaced joins
// at the next one.
func TestJoinOfANetworkThatEnds(t *testing.T) {
	testnet.CheckLeaks(t)
	h := newHall(t)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	joined := make(chan error, 1)
	go func() {
		c, _, err := Open(t.Context(), h.path, nil)
		if err == nil {
			defer c.Close()
			_, _, err = c.Join(t.Context(), held, Handover{TAP: int(null.Fd())})
		}
		joined <- err
	}()
	first, err := h.l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receive(first, &request{}); err != nil {
		t.Fatal(err)
	}
	if err := send(first, reply{Info: &Info{}}); err != nil {
		t.Fatal(err)
	}
	fds, err := receive(first, &request{})
	if err != nil {
		t.Fatal(err)
	}
	closeAll(fds)
	first.Close()
	if _, m := h.takes(reply{}); m.ID != held.ID {
		t.Errorf("%q has joined", m.ID)
	}
	if err := <-joined; err != nil {
		t.Error(err)
	}
}

// TestHolderOfARemovedMember does not come back.
func TestHolderOfARemovedMember(t *testing.T) {
	testnet.CheckLeaks(t)
	h := newHall(t)
	holder, conn := h.holds(nil, &logBuffer{})
	defer holder.Close()
	if err := send(conn, reply{Removed: true}); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	select {
	case <-holder.Ended():
	case <-time.After(10 * time.Second):
		t.Fatal("it has not ended")
	}
	h.l.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if c, err := h.l.Accept(); err == nil {
		c.Close()
		t.Error("it comes back")
	}
}

// TestHolderClosedWhileItJoins returns at once, whatever it waits for.
func TestHolderClosedWhileItJoins(t *testing.T) {
	testnet.CheckLeaks(t)
	h := newHall(t)
	holder, conn := h.holds(nil, &logBuffer{})
	conn.Close()
	silent, err := h.l.AcceptUnix() // takes the client, and does not answer
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	done := make(chan struct{})
	go func() { holder.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits for the network")
	}
}
