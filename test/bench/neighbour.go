package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"epiphyte/test/harness"
)

// Addresses of a network's two members, from another range reserved for documentation
// (RFC 5737). The first address is the gateway's, where there is one.
const (
	networkSubnet = "203.0.113.0/24"
	clientMember  = "203.0.113.2/24"
	serverMember  = "203.0.113.3/24"
)

// networkName of ours.
const networkName = "bench"

// neighbourRows are what two members of one network have of each other.
func neighbourRows() []row {
	var rows []row
	add := func(name string, r row) {
		r.name, r.neighbour = "neighbour-"+name, true
		rows = append(rows, r)
	}
	for _, mtu := range []int{bigMTU, etherMT} {
		for _, streams := range []int{1, 4} {
			add(fmt.Sprintf("tcp-%d-%d", streams, mtu), stream("between members", loadSend, streams, mtu))
		}
	}
	add("rtt-tcp", roundTrip("", loadEcho, "TCP between members:"))
	add("rtt-udp", roundTrip("", loadEchoUDP, "UDP between members:"))
	for _, parallel := range []int{1, 16} {
		r := connects(parallel)
		for i := range r.metrics {
			r.metrics[i].title = "Between members: " + r.metrics[i].title
		}
		add(r.name, r)
	}
	for _, size := range []int{1400, 64} {
		add(fmt.Sprintf("udp-%d", size), paced(load{Kind: loadFloodUDP, Size: size}, fmt.Sprintf("UDP %d B between members, loss under 1 %%", size)))
	}
	return rows
}

// meet makes the guest a neighbour, where servers run.
func (s *scene) meet() (err error) {
	if s.neighbour, err = s.newGuest(); err != nil {
		return err
	}
	s.servers = s.neighbour.NetNS
	s.server, s.target = netip.IPv4Unspecified(), netip.MustParsePrefix(serverMember).Addr()
	if s.peer.Kind == kindBridge {
		return s.connectBridge()
	}
	return nil
}

// members of the network with their addresses.
func (s *scene) members() map[string]*harness.Guest {
	return map[string]*harness.Guest{clientMember: s.guest, serverMember: s.neighbour}
}

// connectBridge joins the members by the kernel alone, as container engines do: a veth
// pair for each, whose other ends are on a bridge.
func (s *scene) connectBridge() error {
	return s.host.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "br0", s.mtu
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		for address, g := range s.members() {
			name := "member" + strconv.Itoa(g.PID)
			port, err := addVeth(name, tapName, s.mtu)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(port, bridge); err != nil {
				return fmt.Errorf("add %s to bridge: %w", name, err)
			}
			inside, err := netlink.LinkByName(tapName)
			if err != nil {
				return err
			}
			if err := errors.Join(netlink.LinkSetUp(port), netlink.LinkSetNsPid(inside, g.PID), s.configureMember(g, address)); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(bridge)
	})
}

// configureMember raises a member's interface, where its peer leaves that to others.
func (s *scene) configureMember(g *harness.Guest, address string) error {
	return g.Do(func() error {
		l, err := netlink.LinkByName(tapName)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMTU(l, s.mtu), raise(l, address))
	})
}

// serveMembers starts a helper that has a directory of its own, and has it serve the
// members.
func (s *scene) serveMembers(args func(dir string) []string, serve func(h *helper, dir string) error) (*helper, error) {
	dir, err := os.MkdirTemp("", "network-")
	if err != nil {
		return nil, err
	}
	h, err := newHelper(s.peer.Path, append(args(dir), s.peer.Args...)...)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	h.clear = func() { os.RemoveAll(dir) }
	if err := serve(h, dir); err != nil {
		err = fmt.Errorf("%s has no network: %w: %s", s.peer.Label, err, h.output())
		h.kill()
		return nil, err
	}
	return h, nil
}

// startNetwork starts a network of ours. Its members are in the background, so the
// network's processes are all there is.
func startNetwork(ctx context.Context, s *scene) (*helper, error) {
	return s.serveMembers(func(string) []string {
		return []string{"network", "serve", "--stay", networkName}
	}, func(h *helper, dir string) error {
		if err := s.runOurs(ctx, dir, "network", "create", "--subnet="+networkSubnet, "--mtu="+strconv.Itoa(s.mtu), networkName); err != nil {
			return err
		}
		h.cmd.Stdout, h.cmd.Env = nil, oursIn(dir)
		ready, err := h.cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := s.host.Start(h.cmd); err != nil {
			return err
		}
		h.pid = h.cmd.Process.Pid
		stop := context.AfterFunc(ctx, func() { ready.Close() })
		defer stop()
		if answer, err := io.ReadAll(ready); err != nil || !strings.HasPrefix(string(answer), "ready") {
			return errors.Join(err, fmt.Errorf("it says %q", answer))
		}
		for address, g := range s.members() {
			ip := netip.MustParsePrefix(address).Addr()
			if err := s.runOurs(ctx, dir, "network", "connect", "--ip="+ip.String(), networkName, strconv.Itoa(g.PID), tapName); err != nil {
				return err
			}
		}
		return nil
	})
}

// oursIn is an environment in which our networks are in a directory.
func oursIn(dir string) []string {
	return append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "XDG_CONFIG_HOME="+dir)
}

// runOurs runs a command of ours to its end.
func (s *scene) runOurs(ctx context.Context, dir string, args ...string) error {
	cmd := exec.Command(s.peer.Path, args...)
	cmd.Env = oursIn(dir)
	return s.finish(ctx, cmd)
}

// vdeMTU is the largest that vde_switch carries. Larger packets of its members are cut
// by their kernels.
const vdeMTU = etherMT

// startVDE starts vde_switch(1), and the program beside it that joins a member's TAP.
func startVDE(_ context.Context, s *scene) (*helper, error) {
	s.mtu = min(s.mtu, vdeMTU)
	socket := func(dir string) string { return filepath.Join(dir, "switch") }
	return s.serveMembers(func(dir string) []string {
		return []string{"-s", socket(dir)}
	}, func(h *helper, dir string) error {
		// It ends with its console, which its standard input is.
		if _, err := h.cmd.StdinPipe(); err != nil {
			return err
		}
		if err := s.host.Start(h.cmd); err != nil {
			return err
		}
		h.pid = h.cmd.Process.Pid
		if err := harness.Eventually(defaultPatience, func() error { _, err := os.Stat(filepath.Join(socket(dir), "ctl")); return err }); err != nil {
			return err
		}
		for address, g := range s.members() {
			plug, err := newHelper("vde_plug2tap", "-s", socket(dir), tapName)
			if err != nil {
				return err
			}
			h.more = append(h.more, plug)
			if err := g.Start(plug.cmd); err != nil {
				return err
			}
			plug.pid = plug.cmd.Process.Pid
			if err := harness.Eventually(defaultPatience, func() error { return s.configureMember(g, address) }); err != nil {
				return fmt.Errorf("vde_plug2tap: %w: %s", err, plug.output())
			}
		}
		return nil
	})
}
