package test

import (
	"bytes"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// place is a machine of the internet that no other test uses.
type place struct{ v4, v6 string }

func (p place) of(f family) string {
	if f.af == unix.AF_INET {
		return p.v4
	}
	return p.v6
}

// places counts them.
var places atomic.Int32

func newPlace(t testing.TB) place {
	t.Helper()
	i := 100 + places.Add(1)
	p := place{fmt.Sprintf("198.51.100.%d", i), fmt.Sprintf("2001:db8:2::%x", i)}
	lendAddress(t, env.Net.Net, "down0", p.v4+"/24", addDeprecated)
	lendAddress(t, env.Net.Net, "down0", p.v6+"/64", addDeprecated)
	return p
}

// addDeprecated adds an address that the kernel does not choose for new connections (RFC
// 6724, rule 3): those of other tests, beside this one, outlive it.
func addDeprecated(link netlink.Link, addr *netlink.Addr) error {
	addr.ValidLft, addr.PreferedLft = math.MaxUint32, 0
	return netlink.AddrAdd(link, addr)
}

// newOutside is one with the members' servers.
func newOutside(t testing.TB) place {
	t.Helper()
	p := newPlace(t)
	for _, f := range families() {
		serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(p.of(f), echoPort), echoTCP)
		servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(p.of(f), echoPort), echoPacket)
	}
	return p
}

// hardware is a member's Ethernet address, or one's of another text.
func hardware(t testing.TB, text string) [6]byte {
	t.Helper()
	return [6]byte(must(net.ParseMAC(text))(t))
}

// gatewayMAC is 52:55 and the gateway's IPv4 address.
func (m *member) gatewayMAC() [6]byte {
	a := netip.MustParseAddr(m.gateway[unix.AF_INET]).As4()
	return [6]byte{0x52, 0x55, a[0], a[1], a[2], a[3]}
}

func (m *member) wire(t testing.TB) *wire {
	t.Helper()
	return openWire(t, m.Guest, m.Interface, m.gatewayMAC())
}

// frame sends a packet in a frame with any addresses.
func (w *wire) frame(t testing.TB, to, from [6]byte, packet []byte) {
	t.Helper()
	b := append(ethernet(to, packet), packet...)
	copy(b[6:], from[:])
	if err := harness.Eventually(deadline, func() error { return unix.Send(w.fd, b, 0) }); err != nil {
		t.Fatal(err)
	}
}

// saw drains the wire and reports whether a frame came in with some bytes in it.
func (w *wire) saw(marker string) (seen bool) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(w.fd, b, unix.MSG_DONTWAIT)
		if err != nil {
			return seen
		}
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING && bytes.Contains(b[:n], []byte(marker)) {
			seen = true
		}
	}
}

// TestN2_NetworksDoNotSeeEachOther: a member of another network is reached by none of its
// addresses, nor by way of the gateway, nor by raw frames of the namespace's root.
func TestN2_NetworksDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	victim, neighbor := n.run(t, "red", "victim"), n.run(t, "red", "neighbor")
	stranger := n.run(t, "blue", "stranger")
	victim.serveEcho(t)
	if r := stranger.asks(t, "udp4", "victim.red", dns.TypeA); len(r.Answer) > 0 {
		t.Errorf("its name is known: %v", r)
	}
	local := linkLocal(t, victim.NetNS, victim.Interface)
	reached := func(why string) {
		t.Helper()
		for _, f := range families() {
			targets := []string{victim.address(f)}
			if f.af == unix.AF_INET6 {
				index, _, err := stranger.Hardware(stranger.Interface)
				if err != nil {
					t.Fatal(err)
				}
				targets = append(targets, fmt.Sprintf("%s%%%d", local, index))
			}
			for _, to := range targets {
				for way, try := range ways {
					if err := try(stranger, t, f, to, patience); err == nil {
						t.Errorf("%s: %s by %s", why, to, way)
					}
				}
			}
		}
	}
	reached("as it is")
	// As if it were on this network: ARP and neighbour discovery find nobody.
	routes := []string{victim.IPv4.String() + "/32", victim.IPv6.String() + "/128"}
	stranger.change(t, func(l netlink.Link) error {
		for _, r := range routes {
			p := netip.MustParsePrefix(r)
			dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Bits())}
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
				return fmt.Errorf("route to %s: %w", r, err)
			}
		}
		return nil
	})
	reached("with a route")
	stranger.change(t, func(l netlink.Link) error {
		for _, a := range []netip.Addr{victim.IPv4, victim.IPv6} {
			mac := hardware(t, victim.MAC)
			if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac[:]}); err != nil {
				return fmt.Errorf("neighbour %s: %w", a, err)
			}
		}
		return nil
	})
	reached("with its Ethernet address")

	own, theirs, gateway := hardware(t, stranger.MAC), hardware(t, victim.MAC), stranger.gatewayMAC()
	wire, watch := stranger.wire(t), victim.wire(t)
	for i, frame := range []struct{ to, from [6]byte }{
		{theirs, own}, {theirs, theirs}, {theirs, hardware(t, neighbor.MAC)}, {theirs, victim.gatewayMAC()},
		{gateway, own}, {gateway, theirs}, {victim.gatewayMAC(), own}, {victim.gatewayMAC(), victim.gatewayMAC()},
		{[6]byte{255, 255, 255, 255, 255, 255}, own},
	} {
		for _, src := range []netip.Addr{stranger.IPv4, neighbor.IPv4, victim.IPv4, stranger.IPv6, neighbor.IPv6, victim.IPv6} {
			dst := victim.IPv4
			if src.Is6() {
				dst = victim.IPv6
			}
			wire.frame(t, frame.to, frame.from, udpPacket(src, dst, 4000+i, 7000, "raw frame"))
		}
	}
	// What would have been carried has been when an answer comes; and a neighbour's frame
	// is seen.
	if err := stranger.tryPing(t, families()[0], stranger.gateway[unix.AF_INET], deadline); err != nil {
		t.Errorf("the stranger has no gateway any more: %v", err)
	}
	if watch.saw("raw frame") {
		t.Error("a raw frame of another network has arrived")
	}
	neighbor.wire(t).frame(t, theirs, hardware(t, neighbor.MAC), udpPacket(neighbor.IPv4, victim.IPv4, 4000, 7000, "raw frame"))
	eventually(t, deadline, func() error {
		if !watch.saw("raw frame") {
			return fmt.Errorf("a neighbour's frame has not arrived")
		}
		return nil
	})
}

// change configures the member's interface.
func (m *member) change(t testing.TB, f func(netlink.Link) error) {
	t.Helper()
	if err := m.Do(func() error {
		l, err := netlink.LinkByName(m.Interface)
		if err != nil {
			return err
		}
		return f(l)
	}); err != nil {
		t.Fatal(err)
	}
}

// TestN2_Internal: members of an internal network reach each other and nothing
// outside, the host's loopback included; outside names do not exist, which is said at
// once and without a nameserver's help.
func TestN2_Internal(t *testing.T) {
	t.Parallel()
	outside, resolver := newOutside(t), newPlace(t)
	upstream := serveDNS(t, env.Net.Net, resolver.v4, named("192.0.2.44"))
	n := newNetworks(t, resolver.v4)
	n.do(t, "network", "create", "--internal", "vault")
	a, b := n.run(t, "vault", "a"), n.run(t, "vault", "b")
	b.serveEcho(t)
	a.finds(t, b)
	for _, f := range families() {
		loop := serveTCP(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "0"), echoTCP)
		for _, to := range []string{outside.of(f), f.host()} {
			for way, try := range ways {
				if err := try(a, t, f, to, patience); err == nil {
					t.Errorf("%s is reached by %s", to, way)
				}
			}
		}
		if c, err := a.Dial(timeout(t, patience), "tcp"+f.v, hostPort(a.gateway[f.af], loop)); err == nil {
			c.Close()
			t.Errorf("the host's %s is reached", f.loop)
		}
		for _, transport := range []string{"udp" + f.v, "tcp" + f.v} {
			begin := time.Now()
			if r := a.asks(t, transport, "name.example", dns.TypeA); r.Rcode != dns.RcodeNameError || late(t, time.Since(begin), time.Second) {
				t.Errorf("an outside name by %s: %s after %v", transport, dns.RcodeToString[r.Rcode], time.Since(begin))
			}
		}
	}
	if asked := upstream.udp.Load() + upstream.tcp.Load(); asked > 0 {
		t.Errorf("the nameserver was asked %d times", asked)
	}
}

// TestN2_Isolate: members reach outside, but not each other, by raw frames either.
func TestN2_Isolate(t *testing.T) {
	t.Parallel()
	outside, resolver := newOutside(t), newPlace(t)
	serveDNS(t, env.Net.Net, resolver.v4, named("192.0.2.44"))
	n := newNetworks(t, resolver.v4)
	n.do(t, "network", "create", "--isolate", "cells")
	a, b := n.run(t, "cells", "a"), n.run(t, "cells", "b")
	b.serveEcho(t)
	for _, f := range families() {
		for way, try := range ways {
			if err := try(a, t, f, outside.of(f), deadline); err != nil {
				t.Errorf("outside by %s over %s: %v", way, f.name, err)
			}
			if err := try(a, t, f, b.address(f), patience); err == nil {
				t.Errorf("a neighbour is reached by %s over %s", way, f.name)
			}
		}
	}
	if got := a.resolve(t, families()[0], "name.example"); len(got) != 1 || got[0].String() != "192.0.2.44" {
		t.Errorf("an outside name is %v", got)
	}
	watch, wire := b.wire(t), a.wire(t)
	own, theirs := hardware(t, a.MAC), hardware(t, b.MAC)
	for _, to := range [][6]byte{theirs, {255, 255, 255, 255, 255, 255}, a.gatewayMAC()} {
		for _, from := range [][6]byte{own, theirs, a.gatewayMAC()} {
			wire.frame(t, to, from, udpPacket(a.IPv4, b.IPv4, 4000, 7000, "raw frame"))
		}
	}
	if err := a.tryPing(t, families()[0], outside.v4, deadline); err != nil {
		t.Error(err)
	}
	if watch.saw("raw frame") {
		t.Error("a raw frame has arrived")
	}
}

// TestN2_GuestsMayNotAsk: the user's files are a guest's of run, too, so it reaches the
// network's sockets. It may neither look nor join nor stop anything there.
func TestN2_GuestsMayNotAsk(t *testing.T) {
	t.Parallel()
	n := newNetworks(t)
	n.run(t, "web", "db")
	n.run(t, "other", "cache")
	for _, args := range [][]string{
		{"network", "inspect", "web"},
		{"network", "inspect", "other"},
		{"network", "disconnect", "other", "cache"},
		{"network", "upgrade", "other"},
		{"network", "rm", "--force", "other"},
		{"attach", "--network", "other", "1", "eth7"},
		{"ports", "--network", "other"},
	} {
		stdout, stderr, code := n.try(t, append([]string{"run", "--network", "web", "--", env.Binary}, args...)...)
		if code == 0 || args[0] != "ports" && !strings.Contains(stderr, "guests may not ask") {
			t.Errorf("%q: exit status %d, %q, %q", args, code, stdout, stderr)
		}
	}
	if s := n.inspect(t, "other"); len(s.members) != 1 {
		t.Errorf("the other network has %+v", s.members)
	}
}
