package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// again waits until another worker than the one of before serves the same members.
func (n *networks) again(t testing.TB, network string, before shown) {
	t.Helper()
	eventually(t, deadline, func() error {
		now, err := n.tryInspect(t, network)
		if err == nil && (now.Worker == before.Worker || len(now.members) != len(before.members)) {
			err = errors.New("the network is not back")
		}
		return err
	})
}

// reportPeer tells a client its address on a line, and then sends back what it sends.
func reportPeer(c *net.TCPConn) {
	if _, err := fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).IP); err == nil {
		echoTCP(c)
	}
}

// reportingServers are one for each family.
func reportingServers(t testing.TB, g *harness.Guest) {
	serveTCP(t, g.NetNS, "tcp4", "0.0.0.0:8080", reportPeer)
	serveTCP(t, g.NetNS, "tcp6", "[::]:8080", reportPeer)
}

// carriedIn is a client's bulk through a published port.
type carriedIn struct {
	local  string           // its address
	seen   string           // the same, as the server sees it
	device map[string]int64 // bytes that came by each device meanwhile
}

const carriedBytes = 100_000

// carry sends carriedBytes to a published port and wants them back.
func carry(t testing.TB, g *harness.Guest, from *harness.NetNS, network, to string, devices ...string) carriedIn {
	t.Helper()
	r := carriedIn{device: map[string]int64{}}
	for _, d := range devices {
		r.device[d] = -receivedBy(t, g, d)
	}
	c := must(from.Dial(timeout(t, deadline), network, to))(t)
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	r.local = c.LocalAddr().(*net.TCPAddr).IP.String()
	if _, err := fmt.Fscanln(io.LimitReader(c, 64), &r.seen); err != nil {
		t.Fatalf("%s: %v", to, err)
	}
	if err := echoes(c, strings.Repeat("x", carriedBytes)); err != nil {
		t.Fatalf("%s: %v", to, err)
	}
	for _, d := range devices {
		r.device[d] += receivedBy(t, g, d)
	}
	return r
}

// TestNetworkDirectPath: what a client sends to a published port of a network's member
// reaches the server past the bridge, and the server sees the client's own address; also
// when the network's process has been killed, as often as you like, and while sockets were
// on their way to it.
func TestNetworkDirectPath(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	m := n.attach(t, "web", "app", newGuest(t).PID, "-p", "18101:8080", "-p", "[::]:18101:8080")
	agent := agentOf(t, m.helper)
	reportingServers(t, m.Guest)
	check := func(t *testing.T) {
		status := must(os.ReadFile(fmt.Sprintf("/proc/%d/status", n.inspect(t, "web").Worker)))(t)
		if !strings.Contains(string(status), "\nSeccomp:\t2\n") {
			t.Error("the network's process is not confined")
		}
		eachFamily(t, func(t *testing.T, f family) {
			near := carry(t, m.Guest, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "18101"), "eth0")
			if near.seen != m.gateway[f.af] {
				t.Errorf("the host's loopback is seen as %s, want %s", near.seen, m.gateway[f.af])
			}
			distant := carry(t, m.Guest, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.host(), "18101"), "eth0")
			if distant.seen != distant.local {
				t.Errorf("%s is seen as %s", distant.local, distant.seen)
			}
			for _, r := range []carriedIn{near, distant} {
				if r.device["eth0"] > carriedBytes/10 {
					t.Errorf("%d bytes of %s came by the device", r.device["eth0"], r.seen)
				}
			}
		})
	}
	t.Run("at first", check)

	for _, victim := range []struct {
		name string
		pid  func(shown) int
	}{
		{"worker", func(s shown) int { return s.Worker }},
		{"worker again", func(s shown) int { return s.Worker }},
		{"keeper", func(s shown) int { return s.Keeper }},
	} {
		before := n.inspect(t, "web")
		// Half of the stock is taken, so that more is ordered, and does not come yet.
		if err := unix.Kill(agent, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			c := must(env.Host.Dial(timeout(t, deadline), "tcp4", "127.0.0.1:18101"))(t)
			c.Close()
		}
		n.inspect(t, "web") // the worker has had time to take them
		kill(t, victim.pid(before))
		if err := unix.Kill(agent, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		n.again(t, "web", before)
		t.Run("without the "+victim.name, check)
	}
	if now := agentOf(t, m.helper); now != agent {
		t.Errorf("the agent is another, %d after %d", now, agent)
	}
}

// killAgent ends a member's agent and waits until it is gone.
func killAgent(t testing.TB, h *harness.Helper) {
	t.Helper()
	agent := agentOf(t, h)
	if err := unix.Kill(agent, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, deadline, func() error {
		if unix.Kill(agent, 0) != unix.ESRCH {
			return errors.New("the agent is still there")
		}
		return nil
	})
}

// TestNetworkDirectPathFallsBack: without the agent a member's clients are carried in by
// the bridge.
func TestNetworkDirectPathFallsBack(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	m := n.run(t, "web", "app", "-p", "18102:8080")
	reportingServers(t, m.Guest)
	killAgent(t, m.helper)
	for range 3 {
		r := carry(t, m.Guest, env.Net.Net, "tcp4", net.JoinHostPort(harness.HostIPv4, "18102"), "eth0")
		if r.seen != r.local {
			t.Errorf("%s is seen as %s", r.local, r.seen)
		}
		if r.device["eth0"] < carriedBytes {
			t.Errorf("only %d bytes came by the device", r.device["eth0"])
		}
	}
}

// TestNetworkWithoutUseHasNoAgent: members that publish no TCP ports, and whose connections stay
// on the bridge, pay for none.
func TestNetworkWithoutUseHasNoAgent(t *testing.T) {
	t.Parallel()
	m := newNetworks(t).attach(t, "web", "app", newGuest(t).PID, "-p", "18103:8080/udp", "--bulk=never")
	if pid := must(m.helper.Agent())(t); pid > 0 {
		t.Errorf("it has an agent, %d", pid)
	}
}

// TestNetworkReplyRoutes: a guest on two networks answers clients from afar by the network
// by which they came, with TCP by either path, and with UDP. It has an agent for each.
func TestNetworkReplyRoutes(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	g := newGuest(t)
	join := func(network, device, port string) *member {
		cfg := n.cfg
		cfg.Args = []string{"attach", "--network", network, "--name", "app", "-r", harness.ReadyFD,
			"-p", port + ":8080", "-p", "[::]:" + port + ":8080", "-p", port + ":8081/udp", "-p", "[::]:" + port + ":8081/udp",
			fmt.Sprint(g.PID), device}
		h := must(env.Start(timeout(t, deadline), cfg))(t)
		t.Cleanup(h.Kill)
		return n.member(t, network, "app", g.PID, h)
	}
	ports := map[string]string{"eth0": "18104", "eth1": "18105"}
	members := map[string]*member{}
	for _, device := range []string{"eth0", "eth1"} {
		members[device] = join("net-"+device, device, ports[device])
	}
	reportingServers(t, g)
	clients := func(check func(t *testing.T, device string, came map[string]int64)) func(*testing.T) {
		return func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				for device, port := range ports {
					r := carry(t, g, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.host(), port), "eth0", "eth1")
					if r.seen != r.local {
						t.Errorf("by %s: %s is seen as %s", device, r.local, r.seen)
					}
					check(t, device, r.device)
				}
			})
		}
	}
	t.Run("direct", clients(func(t *testing.T, device string, came map[string]int64) {
		if n := came["eth0"] + came["eth1"]; n > carriedBytes/10 {
			t.Errorf("by %s: %d bytes came by the devices", device, n)
		}
	}))
	for _, m := range members {
		killAgent(t, m.helper)
	}
	t.Run("stack", clients(func(t *testing.T, device string, came map[string]int64) {
		if came[device] < carriedBytes {
			t.Errorf("only %d bytes came by %s", came[device], device)
		}
	}))
	t.Run("UDP", func(t *testing.T) {
		eachFamily(t, func(t *testing.T, f family) {
			for device, port := range ports {
				servePacket(t, g.NetNS, "udp"+f.v, net.JoinHostPort(members[device].address(f), "8081"), echoPacket)
				c := must(env.Net.Net.Dial(timeout(t, deadline), "udp"+f.v, net.JoinHostPort(f.host(), port)))(t)
				defer c.Close()
				if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
					t.Fatal(err)
				}
				if err := says(c, "hello"); err != nil {
					t.Errorf("by %s: %v", device, err)
				}
			}
		})
	})
}
