package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// Addresses of a host's second way out, and of its far end.
const (
	sideName             = "way1"
	sideIPv4, sideIPv6   = "198.18.7.1", "2001:db8:18::1"
	beyondIPv4           = "198.18.7.2"
	beyondIPv6           = "2001:db8:18::2"
	sideSize4, sideSize6 = "/24", "/64"
)

// addSide gives the host a second way out, by which its routes lead as a last resort only.
func (u *uplink) addSide() error {
	err := u.host.Link(sideName, u.far, sideName)
	for _, a := range []struct {
		ns   *harness.NetNS
		cidr string
	}{{u.host, sideIPv4 + sideSize4}, {u.host, sideIPv6 + sideSize6}, {u.far, beyondIPv4 + sideSize4}, {u.far, beyondIPv6 + sideSize6}} {
		err = errors.Join(err, harness.ChangeAddress(a.ns, sideName, a.cidr, netlink.AddrAdd))
	}
	return errors.Join(err, u.host.Do(func() error {
		l, err := netlink.LinkByName(sideName)
		for _, gateway := range []string{beyondIPv4, beyondIPv6} {
			if err == nil {
				err = netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gateway), Priority: 9999})
			}
		}
		return err
	}))
}

// peerOfDatagram is what a server sees a datagram come from.
func peerOfDatagram(_ []byte, from net.Addr) []byte {
	return []byte(from.(*net.UDPAddr).AddrPort().Addr().Unmap().String())
}

// namesPeers is a nameserver that answers with its client's address.
func namesPeers(t testing.TB, ns *harness.NetNS, addr string) {
	t.Helper()
	servePacket(t, ns, "udp4", net.JoinHostPort(addr, "53"), func(q []byte, from net.Addr) []byte {
		return named(string(peerOfDatagram(nil, from)))(q, false)
	})
	serveTCP(t, ns, "tcp4", net.JoinHostPort(addr, "53"), func(c *net.TCPConn) {
		q, err := readPrefixed(c)
		if err == nil {
			c.Write(prefixed(named(c.RemoteAddr().(*net.TCPAddr).IP.String())(q, true)))
		}
	})
}

// TestPastaOutboundInterface: with --outbound-if4 and --outbound-if6 the guest's connections,
// datagrams and pings leave by that interface, and so do queries to nameservers, although the
// default route leads elsewhere. The host's own address and its loopback are reached as ever,
// and without the interface the network is unreachable.
func TestPastaOutboundInterface(t *testing.T) {
	t.Parallel()
	u := newUplink(t)
	if err := errors.Join(u.route(), u.addSide(), u.host.Do(loopbackUp)); err != nil {
		t.Fatal(err)
	}
	if err := u.host.Sysctl("net/ipv4/ping_group_range", fmt.Sprint(os.Getgid(), " ", os.Getgid())); err != nil {
		t.Fatal(err)
	}
	namesPeers(t, u.far, elsewhereIPv4)
	g := newGuest(t)
	w := &world{Guest: g, helper: pastaOn(t, g, harness.HelperConfig{Host: u.host, Etc: etc(t, elsewhereIPv4)},
		append(closedPorts[:len(closedPorts):len(closedPorts)], "--outbound-if4", sideName, "--outbound-if6", sideName, "-i", uplinkName,
			"--map-guest-addr", mapped4, "--map-guest-addr", mapped6, "--dns-forward", forwarder4)...)}
	elsewhere, side, here := perFamily{elsewhereIPv4, elseIPv6}, perFamily{sideIPv4, sideIPv6}, perFamily{uplinkIPv4, uplinkIPv6}
	eachFamily(t, func(t *testing.T, f family) {
		w.waitAddress(t, f.af)
		far := serveTCP(t, u.far, "tcp"+f.v, f.anyHost()+":0", tellPeer)
		if peer, err := w.peerOf(t, f, hostPort(elsewhere.of(f), far)); err != nil || peer != side.of(f) {
			t.Errorf("a connection comes from %q, %v, want %s", peer, err, side.of(f))
		}
		datagrams := servePacket(t, u.far, "udp"+f.v, net.JoinHostPort(elsewhere.of(f), "0"), peerOfDatagram)
		c := w.dial(t, "udp"+f.v, datagrams.LocalAddr().String())
		wantPeer(t, c, side.of(f))
		pinged := (&world{Guest: &harness.Guest{NetNS: u.far}}).pinger(t, f)
		w.pinger(t, f).echo(t, elsewhere.of(f), 7, 1, nil)
		if _, from := pinged.wait(t, deadline, map[string]byte{"4": icmpEcho, "6": icmp6Echo}[f.v]); from != side.of(f) {
			t.Errorf("a ping comes from %q, want %s", from, side.of(f))
		}
		local := serveTCP(t, u.host, "tcp"+f.v, f.anyHost()+":0", tellPeer)
		if peer, err := w.peerOf(t, f, hostPort(perFamily{mapped4, mapped6}.of(f), local)); err != nil || peer != here.of(f) {
			t.Errorf("the host's own address: peer %q, %v", peer, err)
		}
		same := servePacket(t, u.host, "udp"+f.v, f.anyHost()+":0", echoPacket)
		if err := says(w.dial(t, "udp"+f.v, net.JoinHostPort(perFamily{mapped4, mapped6}.of(f), port(same.LocalAddr()))), "hello"); err != nil {
			t.Errorf("a datagram to the host's own address: %v", err)
		}
	})
	for _, network := range []string{"udp", "tcp"} {
		if _, got, err := w.lookup(t, network, forwarder4, "example.org.", deadline); err != nil || got != sideIPv4 {
			t.Errorf("a query over %s comes from %q, %v, want %s", network, got, err, sideIPv4)
		}
	}
	if err := u.host.Do(func() error {
		l, err := netlink.LinkByName(sideName)
		if err == nil {
			err = netlink.LinkDel(l)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		if _, err := w.peerOf(t, f, net.JoinHostPort(elsewhere.of(f), "9")); !isErrno(err, unix.ENETUNREACH) {
			t.Errorf("a connection without the interface: %v", err)
		}
	})
}
