package tap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
)

// served is an agent on a shard that serves until the test ends.
type served struct {
	*Agent
	t    *testing.T
	stop func() // ends both; idempotent
}

// agentFor starts an agent that makes transparent sockets when asked to.
func agentFor(t *testing.T, g *guest, transparent bool) *served {
	t.Helper()
	a, err := StartAgent(t.Context(), agentConfig(g, transparent))
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, a)
}

func agentConfig(g *guest, transparent bool) AgentConfig {
	cfg := AgentConfig{Target: Target{PID: g.pid}, Logger: slog.New(slog.DiscardHandler)}
	if transparent {
		cfg.Subnet4, cfg.Gateway4 = netip.MustParsePrefix("10.0.2.0/24"), netip.MustParseAddr("10.0.2.2")
		cfg.Subnet6, cfg.Gateway6 = netip.MustParsePrefix("fd00::/64"), netip.MustParseAddr("fd00::2")
	}
	return cfg
}

// serve puts an agent on a shard of its own.
func serve(t *testing.T, a *Agent) *served {
	t.Helper()
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.Attach(s), a.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, a.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return &served{a, t, stop}
}

// do runs f on the shard's thread.
func (a *served) do(f func()) {
	a.t.Helper()
	done := make(chan struct{})
	a.shard.Post(shard.TaskFunc(func() { f(); close(done) }))
	select {
	case <-done:
	case <-time.After(patience):
		a.t.Fatal("the shard does not run")
	}
}

// socket is what the agent has for a client that is ready to wait; -1: nothing.
func (a *served) socket(family int) int {
	a.t.Helper()
	got := make(chan int, 1)
	a.do(func() { a.Socket(family, func(fd int) bool { got <- fd; return true }) })
	select {
	case fd := <-got:
		if fd >= 0 {
			a.t.Cleanup(func() { unix.Close(fd) })
		}
		return fd
	case <-time.After(patience):
		a.t.Fatal("no socket came, and no refusal")
		return -1
	}
}

func (a *served) transparent(family int) (yes bool) {
	a.t.Helper()
	a.do(func() { yes = a.Transparent(family) })
	return yes
}

// agentPID finds the agent by its name among our children.
func agentPID(t *testing.T) int {
	t.Helper()
	for _, pid := range children(t) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(b)) == agentName {
			return pid
		}
	}
	t.Fatal("no agent among our children")
	return 0
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// connect connects a socket of the guest's namespace and returns how it ended.
func connect(t *testing.T, fd int, to netip.AddrPort) error {
	t.Helper()
	err := unix.Connect(fd, sockaddr(to))
	if err != unix.EINPROGRESS {
		return err
	}
	if !ready(t, fd, unix.POLLOUT, time.Second) {
		return unix.ETIMEDOUT
	}
	if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// B31: a server of the guest sees the address that a transparent socket is
// bound to, with no word to it through the device.
func TestB31_TransparentSockets(t *testing.T) {
	g := newGuest(t, nesting{})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	g.do(command{Do: "address", Name: "tap0"})
	a := agentFor(t, g, true)
	for _, tt := range []struct {
		family        int
		guest, client string
	}{
		{unix.AF_INET, "10.0.2.100", "192.0.2.7:4444"},
		{unix.AF_INET, "10.0.2.100", "10.0.2.2:0"},
		{unix.AF_INET6, "fd00::100", "[2001:db8::7]:4444"},
		{unix.AF_INET6, "fd00::100", "[fd00::2]:0"},
	} {
		if !a.transparent(tt.family) {
			t.Errorf("family %d is not transparent", tt.family)
			continue
		}
		client := netip.MustParseAddrPort(tt.client)
		server := netip.MustParseAddrPort(g.do(command{Do: "listen", Name: netip.AddrPortFrom(netip.MustParseAddr(tt.guest), 0).String()}).Text)
		// The second connection of the same client finds the first in TIME-WAIT.
		for range 2 {
			fd := a.socket(tt.family)
			if err := unix.Bind(fd, sockaddr(client)); err != nil {
				t.Fatalf("bind %v: %v", client, err)
			}
			if err := connect(t, fd, server); err != nil {
				t.Fatalf("from %v: %v", client, err)
			}
			seen := netip.MustParseAddrPort(g.do(command{Do: "accept"}).Text)
			if seen.Addr() != client.Addr() || client.Port() != 0 && seen.Port() != client.Port() {
				t.Errorf("the server sees %v, want %v", seen, client)
			}
			unix.Close(fd)
		}
		// Refused at once, by a reset that has to find the way back, too.
		fd := a.socket(tt.family)
		if err := unix.Bind(fd, sockaddr(client)); err != nil {
			t.Fatal(err)
		}
		if err := connect(t, fd, netip.AddrPortFrom(server.Addr(), 9)); err != unix.ECONNREFUSED {
			t.Errorf("no server: %v, want ECONNREFUSED", err)
		}
	}
}

// B35: with a transparent socket as with any, the guest's loopback is its own.
func TestB35_TransparentSocketsStayOffLoopback(t *testing.T) {
	g := newGuest(t, nesting{})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	a := agentFor(t, g, true)
	server := netip.MustParseAddrPort(g.do(command{Do: "listen", Name: "127.0.0.1:0"}).Text)
	for _, to := range []string{"10.0.2.100", "172.17.0.2"} { // the latter is nobody's
		fd := a.socket(unix.AF_INET)
		if err := unix.Bind(fd, sockaddr(netip.MustParseAddrPort("10.0.2.2:0"))); err != nil {
			t.Fatal(err)
		}
		if err := connect(t, fd, netip.AddrPortFrom(netip.MustParseAddr(to), server.Port())); err == nil {
			t.Errorf("%s answers for the loopback", to)
		}
	}
}

// Without leave to configure the namespace, nothing in it is changed.
func TestAgent_PlainSockets(t *testing.T) {
	g := newGuest(t, nesting{})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	a := agentFor(t, g, false)
	if a.transparent(unix.AF_INET) || a.transparent(unix.AF_INET6) {
		t.Error("transparent without being asked to")
	}
	server := netip.MustParseAddrPort(g.do(command{Do: "listen", Name: "10.0.2.100:0"}).Text)
	fd := a.socket(unix.AF_INET)
	if err := connect(t, fd, server); err != nil {
		t.Fatal(err)
	}
	if seen := netip.MustParseAddrPort(g.do(command{Do: "accept"}).Text); seen.Addr() != server.Addr() {
		t.Errorf("the server sees %v", seen)
	}
}

// Root of the guest has every capability over what is in its namespaces, and
// still must not get at our memory by way of the agent.
func TestAgent_CannotBeTraced(t *testing.T) {
	g := newGuest(t, nesting{})
	agentFor(t, g, true)
	agent := agentPID(t)
	if err := g.try(command{Do: "trace", PID: agent}).Err; err != unix.EPERM.Error() {
		t.Errorf("trace: %q, want EPERM", err)
	}
	// The attempt itself is a good one.
	nested := g.do(command{Do: "nest", Nested: nesting{}}).PID
	if err := g.try(command{Do: "trace", PID: nested}).Err; err != "" {
		t.Errorf("trace of a process of the guest's own: %v", err)
	}
}

func trace(pid int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil {
		return unix.EPERM
	}
	if err := unix.PtraceSeize(pid); err != nil {
		return err
	}
	return nil
}

// The agent holds its socket and nothing else, and little power.
func TestAgent_HoldsNothing(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root has capabilities of its own; make test runs this as an unprivileged user")
	}
	g := newGuest(t, nesting{})
	agentFor(t, g, true)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", agentPID(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapEff:\t0000000000001000", "CapPrm:\t0000000000001000", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Threads:\t1"} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	// Its descriptors are not for us to list; a pipe's end tells.
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	agentFor(t, g, false)
	unix.Close(pipe[1])
	if !ready(t, pipe[0], 0, patience) {
		t.Error("the agent holds the pipe")
	}
}

func TestAgent_Killed(t *testing.T) {
	g := newGuest(t, nesting{})
	a := agentFor(t, g, true)
	fd := a.socket(unix.AF_INET)
	if err := unix.Kill(agentPID(t), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.process.Done():
	case <-time.After(patience):
		t.Fatal("nobody noticed")
	}
	// Clients that come before the shard has heard of it may get what is in
	// stock; one that waits is told.
	for range a.stocks[v4].size + 1 {
		if a.socket(unix.AF_INET) < 0 {
			break
		}
	}
	if a.socket(unix.AF_INET) >= 0 || a.transparent(unix.AF_INET) {
		t.Error("an agent that is gone has sockets")
	}
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		t.Errorf("a socket in use went with the agent: %v", err)
	}
	// No rule has been added, and whether one was removed is not known.
	there, outside := netip.MustParseAddrPort("10.0.2.100:1"), netip.MustParseAddrPort("192.0.2.7:1")
	a.do(func() {
		a.Hold(there, outside, func(errno unix.Errno) { wantErrno(t, "hold", errno, unix.ENOTCONN) })
		a.LetGo(there, outside, func(errno unix.Errno) { wantErrno(t, "let go", errno, unix.EPIPE) })
	})
}

func wantErrno(t *testing.T, what string, got, want unix.Errno) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Many more clients come at once than there are sockets in stock: each gets one,
// and what those that have gone meanwhile do not want is the next one's. Then the
// stock is filled up again.
func TestAgent_Burst(t *testing.T) {
	g := newGuest(t, nesting{})
	a := agentFor(t, g, false)
	const clients = 3000
	got := make(chan int, clients)
	a.do(func() {
		for i := range clients {
			a.Socket(unix.AF_INET, func(fd int) bool {
				gone := i%3 == 0
				if fd < 0 || !gone {
					got <- fd
				}
				return !gone
			})
		}
	})
	timeout := time.After(patience)
	for n := range clients * 2 / 3 {
		select {
		case fd := <-got:
			if fd < 0 {
				t.Fatalf("client %d is refused", n)
			}
			unix.Close(fd)
		case <-timeout:
			t.Fatalf("%d sockets in %v", n, patience)
		}
	}
	a.wantFull()
}

// Sockets that are only made on request are closed when those who asked for them have gone.
func TestAgent_NobodyWantsThem(t *testing.T) {
	g := newGuest(t, nesting{})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	a := agentFor(t, g, true)
	const clients = 5
	before, gone := len(openFDs(t)), make(chan int, clients)
	a.do(func() {
		for range clients {
			a.Repair(unix.AF_INET, func(fd int) bool { gone <- fd; return false })
		}
	})
	for range clients {
		if fd := <-gone; fd < 0 {
			t.Error("there was no socket")
		}
	}
	a.wantFull()
	if now := len(openFDs(t)); now > before {
		t.Errorf("%d descriptors are held, %d before", now, before)
	}
}

// An agent that only carries connections has no sockets for clients of published ports.
func TestAgent_CarriesOnly(t *testing.T) {
	g := newGuest(t, nesting{})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	cfg := agentConfig(g, true)
	cfg.NoStreams, cfg.Carries = true, true
	agent, err := StartAgent(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := serve(t, agent)
	for _, family := range [...]int{unix.AF_INET, unix.AF_INET6} {
		if a.transparent(family) {
			t.Errorf("family %d: clients would take its sockets", family)
		}
		got := make(chan int, 1)
		a.do(func() { a.Repair(family, func(fd int) bool { got <- fd; return false }) })
		if <-got < 0 {
			t.Errorf("family %d: no socket to take a connection over", family)
		}
	}
}

// TestAgent_StoppedForgetsNoRule: orders to remove rules are carried out, however many there
// were while the agent was stopped.
func TestAgent_StoppedForgetsNoRule(t *testing.T) {
	g := newGuest(t, nesting{})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	a := agentFor(t, g, true)
	agent := agentPID(t)
	if err := unix.Kill(agent, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(agent, unix.SIGCONT)
	const orders = 3000
	answers := make(chan unix.Errno, orders+1)
	guest, outside := netip.MustParseAddrPort("10.0.2.100:1"), netip.MustParseAddrPort("192.0.2.7:1")
	var added unix.Errno
	a.do(func() {
		for range orders {
			a.Drop(guest, outside, -1, func(errno unix.Errno) { answers <- errno })
		}
		a.Hold(guest, outside, func(errno unix.Errno) { added = errno })
	})
	if added != unix.EAGAIN {
		t.Errorf("a rule added meanwhile: %v, want %v", added, unix.EAGAIN)
	}
	if err := unix.Kill(agent, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(patience)
	for n := range orders {
		select {
		case errno := <-answers:
			if errno != unix.ENOENT {
				t.Fatalf("order %d: %v, want %v", n, errno, unix.ENOENT)
			}
		case <-timeout:
			t.Fatalf("%d orders of %d are answered", n, orders)
		}
	}
}

// What a predecessor has held back is released; what it has routed to sockets stays so.
func TestAgent_DropHolds(t *testing.T) {
	g := newGuest(t, nesting{})
	open(t, Config{Target: Target{PID: g.pid}, Name: "tap0", Configure: network()})
	a := agentFor(t, g, true)
	answer := make(chan unix.Errno, 1)
	done := func(errno unix.Errno) { answer <- errno }
	order := func(f func(), want unix.Errno) {
		t.Helper()
		a.do(f)
		select {
		case errno := <-answer:
			if errno != want {
				t.Errorf("answered %v, want %v", errno, want)
			}
		case <-time.After(patience):
			t.Fatal("no answer")
		}
	}
	var guests, outsides []netip.AddrPort
	for _, addrs := range [][2]string{{"10.0.2.100", "192.0.2.7"}, {"fd00::100", "2001:db8::7"}} {
		for port := range uint16(3) {
			guests = append(guests, netip.AddrPortFrom(netip.MustParseAddr(addrs[0]), 1+port))
			outsides = append(outsides, netip.AddrPortFrom(netip.MustParseAddr(addrs[1]), 1))
		}
	}
	for i := range guests {
		order(func() { a.Hold(guests[i], outsides[i], done) }, 0)
		order(func() { a.Carry(guests[i], outsides[i], -1, done) }, 0)
	}
	a.do(a.DropHolds)
	for range guests { // each of these is answered after another rule has gone
		order(func() { a.LetGo(outsides[0], guests[0], done) }, unix.ENOENT)
	}
	for i := range guests {
		order(func() { a.LetGo(guests[i], outsides[i], done) }, unix.ENOENT)
		order(func() { a.Carry(guests[i], outsides[i], -1, done) }, unix.EEXIST)
	}
}

// wantFull waits until the stocks are full and the agent wants nothing more.
func (a *served) wantFull() {
	a.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var have [2]int
	for begun := time.Now(); time.Since(begun) < patience; <-tick.C {
		idle := false
		a.do(func() {
			have = [2]int{len(a.stocks[v4].ready), len(a.stocks[v6].ready)}
			idle = !a.shard.Armed(&a.timer) && a.stocks[v4].ordered == 0
		})
		if idle && have == [2]int{a.stocks[v4].size, a.stocks[v4].size} {
			return
		}
	}
	a.t.Fatalf("%d sockets in stock, want %d of each family and no timer", have, a.stocks[v4].size)
}

// An agent that the guest has stopped does not hold up our end: a client waits
// for as long as it likes, those that come later are refused, and all is well
// when it goes on.
func TestAgent_Stopped(t *testing.T) {
	g := newGuest(t, nesting{})
	a := agentFor(t, g, false)
	agent := agentPID(t)
	if err := unix.Kill(agent, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range a.stocks[v4].size {
		if a.socket(unix.AF_INET) < 0 {
			t.Fatal("the stock is less than it should be")
		}
	}
	waiting := make(chan int, 1)
	a.do(func() {
		a.Socket(unix.AF_INET, func(fd int) bool { waiting <- fd; return true })
		a.stocks[v4].orderedAt -= silence // as if it had waited
	})
	if fd := a.socket(unix.AF_INET); fd >= 0 {
		t.Errorf("socket %d of an agent that is stopped", fd)
	}
	if err := unix.Kill(agent, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if fd := <-waiting; fd < 0 {
		t.Error("the client that waited is refused")
	} else {
		unix.Close(fd)
	}
	a.wantFull()

	if err := unix.Kill(agent, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	a.stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestAgent_LeavesNothing(t *testing.T) {
	g := newGuest(t, nesting{})
	ignore := goleak.IgnoreCurrent()
	fds, before := openFDs(t), children(t)
	for i := range 10 {
		a, err := StartAgent(t.Context(), AgentConfig{Target: Target{PID: g.pid}})
		if err != nil {
			t.Fatal(err)
		}
		s, err := shard.New(shard.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Attach(s); err != nil {
			t.Error(err)
		}
		if i%2 == 0 {
			if err := a.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(a.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(fds, openFDs(t)); diff != "" {
		t.Error("descriptors (-before +after):\n", diff)
	}
	if kids := children(t); !slices.Equal(kids, before) {
		t.Errorf("children %v, before %v", kids, before)
	}
	goleak.VerifyNone(t, ignore)
}

// Plain sockets of either protocol are the guest's, however many, and are bound by us, to
// privileged ports too; the stocks stay as they are.
// TestAgent_DescriptorsOnTheirWay: how many of a user's may be is bounded, and the guest's
// root, who is the same user, may have them all. It passes.
func TestAgent_DescriptorsOnTheirWay(t *testing.T) {
	g := newGuest(t, nesting{})
	const onTheirWay, limit = 250, 100
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	arrive := sync.OnceFunc(func() { closeAll(pair[:]) })
	t.Cleanup(arrive)
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(slices.Repeat(pair[:1], onTheirWay)...), nil, 0); err != nil {
		t.Fatal(err)
	}
	setLimit(t, limit)

	_, err = Sockets(t.Context(), Target{PID: g.pid}, SocketKind{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Count: 1})
	if !errors.Is(err, unix.ETOOMANYREFS) {
		t.Errorf("Sockets: %v", err)
	}
	a := agentFor(t, g, false)
	if fd := a.socket(unix.AF_INET); fd >= 0 {
		t.Error("a socket came")
	}
	arrive()
	a.wantFull()
}

// setLimit lowers the limit of open files, which children inherit, for the test.
func setLimit(t *testing.T, n uint64) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
}

func TestAgent_Plain(t *testing.T) {
	g := newGuest(t, nesting{})
	a := agentFor(t, g, true)
	g.do(command{Do: "up", Name: "lo"})
	for i, k := range []SocketKind{
		{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Count: 1}, {Family: unix.AF_INET6, Type: unix.SOCK_STREAM, Count: 1},
		{Family: unix.AF_INET, Type: unix.SOCK_DGRAM, Count: 2}, {Family: unix.AF_INET6, Type: unix.SOCK_DGRAM, Count: 2*maxSockets + 1},
	} {
		fds, err := a.Plain(t.Context(), k.Family, k.Type, k.Count)
		if err != nil || len(fds) != k.Count {
			t.Fatalf("%+v: %v, %v", k, fds, err)
		}
		defer closeAll(fds)
		for _, fd := range fds {
			if err := checkFresh(fd, k); err != nil {
				t.Error(err)
			}
		}
		sa := unix.Sockaddr(&unix.SockaddrInet4{Port: 80 + i, Addr: [4]byte{127, 0, 0, 1}})
		if k.Family == unix.AF_INET6 {
			sa = &unix.SockaddrInet6{Port: 80 + i, Addr: [16]byte{15: 1}}
		}
		if err := unix.Bind(fds[0], sa); err != nil {
			t.Errorf("%+v: bind: %v", k, err)
		}
		mark, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_MARK)
		if err != nil || mark != 0 {
			t.Errorf("%+v: mark %d, %v", k, mark, err)
		}
	}
	fds, err := a.Plain(t.Context(), unix.AF_INET, unix.SOCK_STREAM, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fds)
	if err := errors.Join(unix.Bind(fds[0], &unix.SockaddrInet4{Port: 8080, Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fds[0], 1)); err != nil {
		t.Fatal(err)
	}
	g.in.Encode(command{Do: "connect", Name: "127.0.0.1:8080"})
	if !ready(t, fds[0], unix.POLLIN, patience) {
		t.Error("the guest has not come")
	}
	if fd, _, err := unix.Accept(fds[0]); err == nil {
		unix.Close(fd)
	}
	a.wantFull()
}

// Who no longer waits leaves no socket, and an agent that is gone has none to give.
func TestAgent_PlainEnds(t *testing.T) {
	a := agentFor(t, newGuest(t, nesting{}), false)
	a.wantFull()
	before := openDescriptors(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if fds, err := a.Plain(gone, unix.AF_INET, unix.SOCK_STREAM, 3); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", fds, err)
	}
	a.wantFull()
	if _, err := a.Plain(t.Context(), unix.AF_INET, unix.SOCK_DGRAM, 3); err != nil {
		t.Error(err)
	}
	if n := openDescriptors(t) - before; n > 6 { // a plain one may be left in stock
		t.Errorf("%d descriptors left", n)
	}
	a.process.Close()
	if fds, err := a.Plain(t.Context(), unix.AF_INET, unix.SOCK_STREAM, 1); err == nil {
		t.Errorf("an agent that has ended gives %v", fds)
	}
}
