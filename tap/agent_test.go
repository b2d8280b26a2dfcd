package tap

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// agentFor starts an agent that makes transparent sockets when asked to.
func agentFor(t *testing.T, g *guest, transparent bool) *Agent {
	t.Helper()
	cfg := AgentConfig{Target: Target{PID: g.pid}}
	if transparent {
		cfg.Subnet4, cfg.Gateway4 = netip.MustParsePrefix("10.0.2.0/24"), netip.MustParseAddr("10.0.2.2")
		cfg.Subnet6, cfg.Gateway6 = netip.MustParsePrefix("fd00::/64"), netip.MustParseAddr("fd00::2")
	}
	a, err := StartAgent(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if err := a.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
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

func socket(t *testing.T, a *Agent, family int) int {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < patience; <-tick.C {
		if fd, ok := a.Socket(family); ok {
			t.Cleanup(func() { unix.Close(fd) })
			return fd
		}
	}
	t.Fatal("no socket came")
	return -1
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
		if !a.Transparent(tt.family) {
			t.Errorf("family %d is not transparent", tt.family)
			continue
		}
		client := netip.MustParseAddrPort(tt.client)
		server := netip.MustParseAddrPort(g.do(command{Do: "listen", Name: netip.AddrPortFrom(netip.MustParseAddr(tt.guest), 0).String()}).Text)
		// The second connection of the same client finds the first in TIME-WAIT.
		for range 2 {
			fd := socket(t, a, tt.family)
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
		fd := socket(t, a, tt.family)
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
		fd := socket(t, a, unix.AF_INET)
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
	if a.Transparent(unix.AF_INET) || a.Transparent(unix.AF_INET6) {
		t.Error("transparent without being asked to")
	}
	server := netip.MustParseAddrPort(g.do(command{Do: "listen", Name: "10.0.2.100:0"}).Text)
	fd := socket(t, a, unix.AF_INET)
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
		t.Skip("nothing to see: capabilities are root's")
	}
	g := newGuest(t, nesting{})
	agentFor(t, g, true)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", agentPID(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapEff:\t0000000000001000", "CapPrm:\t0000000000001000", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Threads:\t1"} {
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
	a := agentFor(t, g, false)
	fd := socket(t, a, unix.AF_INET)
	if err := unix.Kill(agentPID(t), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.done:
	case <-time.After(patience):
		t.Fatal("nobody noticed")
	}
	if fd, ok := a.Socket(unix.AF_INET); ok {
		t.Errorf("socket %d of an agent that is gone", fd)
	}
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		t.Errorf("a socket in use went with the agent: %v", err)
	}
}

// Sockets are taken faster than they are made, so that what was ordered is
// looked for again and again before it comes: it is not lost, and the agent
// stays in service.
func TestAgent_Burst(t *testing.T) {
	g := newGuest(t, nesting{})
	a := agentFor(t, g, false)
	end := time.Now().Add(10 * time.Second)
	for taken := 0; taken < 3000; {
		if fd, ok := a.Socket(unix.AF_INET); ok {
			unix.Close(fd)
			taken++
		}
		select {
		case <-a.done:
			t.Fatalf("the agent is gone after %d sockets: %v", taken, a.err)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%d sockets in 10 s", taken)
		}
	}
}

// An agent that the guest has stopped does not hold up our end.
func TestAgent_Stopped(t *testing.T) {
	g := newGuest(t, nesting{})
	a := agentFor(t, g, false)
	if err := unix.Kill(agentPID(t), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for {
		fd, ok := a.Socket(unix.AF_INET)
		if !ok {
			break
		}
		unix.Close(fd)
	}
	began := time.Now()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
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
		if i%2 == 0 {
			if err := a.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := a.Close(); err != nil {
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
