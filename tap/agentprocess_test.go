package tap

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// passAgent has another process start an agent for a guest with network().
func passAgent(t *testing.T, g *guest) (o *opener, cfg AdoptConfig, pid int) {
	t.Helper()
	o = newOpener(t)
	fd, a := o.pass("start agent and pass", Config{Target: Target{PID: g.pid}})
	t.Cleanup(func() { unix.Close(fd) })
	return o, AdoptConfig{FD: fd, Transparent4: a.Transparent[v4], Transparent6: a.Transparent[v6]}, a.PID
}

// One process forks the agent, and ends it by ending; another has its sockets.
func TestAdoptAgent(t *testing.T) {
	g := newGuest(t, nesting{})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	o, cfg, agent := passAgent(t, g)
	if kids := childrenOf(t, o.pid); !slices.Contains(kids, agent) {
		t.Errorf("the agent %d is none of the other's children %v", agent, kids)
	}
	if !cfg.Transparent4 || cfg.Transparent6 {
		t.Errorf("transparent for IPv4 %v, for IPv6 %v", cfg.Transparent4, cfg.Transparent6)
	}
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	adopted, err := AdoptAgent(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := serve(t, adopted)
	if !a.transparent(unix.AF_INET) || a.transparent(unix.AF_INET6) {
		t.Error("another process's transparent sockets are not")
	}
	client := netip.MustParseAddrPort("192.0.2.7:4444")
	server := netip.MustParseAddrPort(g.do(command{Do: "listen", Name: "10.0.2.100:0"}).Text)
	fd := a.socket(unix.AF_INET)
	if err := unix.Bind(fd, sockaddr(client)); err != nil {
		t.Fatal(err)
	}
	if err := connect(t, fd, server); err != nil {
		t.Fatal(err)
	}
	if seen := g.do(command{Do: "accept"}).Text; seen != client.String() {
		t.Errorf("the server sees %v, want %v", seen, client)
	}
	a.wantFull()

	if err := unix.Kill(o.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitExit(t, agent)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); a.socket(unix.AF_INET) >= 0; <-tick.C {
		if time.Since(begun) > patience {
			t.Fatal("an agent that is gone has sockets")
		}
	}
	a.stop()
	if log.Len() > 0 {
		t.Errorf("a guest that leaves is no news: %s", log.String())
	}
}

// A guest leaves while others are served: nothing of its agent is left with the
// shard, though the socket has copies.
func TestAdoptAgent_ClosedWhileServing(t *testing.T) {
	g := newGuest(t, nesting{})
	o, cfg, agent := passAgent(t, g)
	a := adoptAgent(t, cfg)
	s := a.shard
	defer s.Close()
	turns(t, a, func() bool { return len(a.stocks[v4].ready) == a.stocks[v4].size })
	a.Socket(unix.AF_INET, func(int) bool { return false })
	a.Close()
	a.Socket(unix.AF_INET, func(fd int) bool {
		if fd >= 0 {
			t.Error("a socket of an agent that was closed")
		}
		return false
	})
	if s.Armed(&a.timer) {
		t.Error("a timer is left")
	}
	if err := unix.Kill(o.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitExit(t, agent)
	turned := 0
	for begun := time.Now(); time.Since(begun) < 100*time.Millisecond; turned++ {
		if err := s.Turn(50 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if turned > 50 {
		t.Errorf("the shard is woken again and again: %d turns", turned)
	}
}

// A successor goes on with an agent whose sockets were on their way to a process that
// was killed: the orders may be unread yet, and the answers.
func TestAdoptAgent_AfterAPredecessor(t *testing.T) {
	g := newGuest(t, nesting{})
	o, cfg, agent := passAgent(t, g)
	for _, answered := range []bool{false, true, true} {
		unanswered(t, cfg)
		if answered && !ready(t, cfg.FD, unix.POLLIN, patience) {
			t.Fatal("the agent does not answer")
		}
	}
	if err := unix.Kill(agent, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	unanswered(t, cfg)
	if err := unix.Kill(agent, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	adopted, err := AdoptAgent(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := serve(t, adopted)
	for range 2 * a.stocks[v4].size {
		if a.socket(unix.AF_INET) < 0 || a.socket(unix.AF_INET6) < 0 {
			t.Fatal("no socket")
		}
	}
	a.wantFull()
	a.stop()
	unix.Kill(o.pid, unix.SIGKILL)
	awaitExit(t, agent)
}

// adoptAgent is an Agent whose shard nobody serves yet; the caller closes both.
func adoptAgent(t *testing.T, cfg AdoptConfig) *Agent {
	t.Helper()
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := AdoptAgent(cfg)
	if err == nil {
		err = a.Attach(s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// unanswered is an Agent that ends with its first orders sent and nothing received.
func unanswered(t *testing.T, cfg AdoptConfig) {
	t.Helper()
	a := adoptAgent(t, cfg)
	if err := errors.Join(a.Close(), a.shard.Close()); err != nil {
		t.Fatal(err)
	}
}

// Whoever started the agent ends it, and nobody else; nothing is left of it then.
func TestAgentProcess_Close(t *testing.T) {
	g := newGuest(t, nesting{})
	before := openFDs(t)
	p, err := StartAgentProcess(t.Context(), AgentConfig{Target: Target{PID: g.pid}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Started(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, err := AdoptAgent(AdoptConfig{FD: p.FD()})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := p.Process().Signal(unix.Signal(0)); err != nil {
		t.Errorf("after Close of its Agent: %v", err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := p.Process().Signal(unix.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("after Close: %v", err)
	}
	if p.FD() != -1 {
		t.Errorf("FD is %d", p.FD())
	}
	if now := openFDs(t); !slices.Equal(now, before) {
		t.Errorf("descriptors %v, before %v", now, before)
	}
}

func TestAdoptAgent_Errors(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(pair[:])
	file, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	for fd, errno := range map[int]unix.Errno{pair[0]: unix.EPROTOTYPE, file: unix.ENOTSOCK, 1 << 20: unix.EBADF} {
		_, err := AdoptAgent(AdoptConfig{FD: fd})
		wantError(t, err, errno, "use socket agent on fd")
	}
}
