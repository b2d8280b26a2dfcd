package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// A host's second address and network, which it moves to.
const (
	movedIPv4, movedIPv6     = "203.0.113.99", "2001:db8:5::99"
	elsewhereIPv4, elseIPv6  = "198.51.100.7", "2001:db8:77::7"
	firstServer, nextServer  = "192.0.2.31", "192.0.2.32" // what nameservers answer with
	firstResolver, nextOther = farIPv4, farIPv6
)

// Addresses that stand for the host and its resolver, as podman asks for them.
const (
	mapped4, mapped6 = "169.254.1.2", "fc00::2"
	forwarder4       = "169.254.1.1"
)

// publishedOnHost is the port of the host that leads to the same one of a hostWorld.
const publishedOnHost = "8080"

// hostWorld is a guest with the addresses of a host of the test's own, which has an /etc
// of its own, too.
func hostWorld(t testing.TB, host *harness.NetNS, etc string) *world {
	t.Helper()
	g := newGuest(t)
	return &world{Guest: g, helper: pastaOn(t, g, harness.HelperConfig{Host: host, Etc: etc},
		"--no-map-gw", "--map-guest-addr", mapped4, "--map-guest-addr", mapped6, "--dns-forward", forwarder4,
		"-t", publishedOnHost, "-u", "none", "-T", "none", "-U", "none")}
}

// route adds a host's default routes by the far end.
func (u *uplink) route() error {
	if err := u.far.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, cidr := range []string{elsewhereIPv4 + "/32", elseIPv6 + "/128"} {
			a, err := netlink.ParseAddr(cidr)
			if err != nil {
				return err
			}
			if err := netlink.AddrReplace(lo, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(lo)
	}); err != nil {
		return err
	}
	return u.link(func(l netlink.Link) error {
		return errors.Join(
			netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(farIPv4)}),
			netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(farIPv6)}))
	})
}

// move gives the host other addresses in place of its own.
func (u *uplink) move() error {
	return u.host.Do(func() error {
		return errors.Join(
			withAddresses(netlink.AddrDel, uplinkIPv4+"/24", uplinkIPv6+"/64"),
			withAddresses(netlink.AddrReplace, movedIPv4+"/24", movedIPv6+"/64"))
	})
}

// perFamily is one thing of both families.
type perFamily struct{ v4, v6 string }

func (p perFamily) of(f family) string {
	if f.af == unix.AF_INET6 {
		return p.v6
	}
	return p.v4
}

// peerOf is the address by which a server that tells it sees who connects from the guest.
func (w *world) peerOf(t testing.TB, f family, addr string) (string, error) {
	c, err := w.Dial(timeout(t, deadline), "tcp"+f.v, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b := make([]byte, 100)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func tellPeer(c *net.TCPConn) { fmt.Fprint(c, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()) }

// TestPastaAddrFollowsTheHost: the guest has the host's addresses, and neighbours in its
// subnet are outside; what stands for the host's address leads to the one that it has at
// the moment, and its way out and its nameservers are those of the moment, too.
func TestPastaAddrFollowsTheHost(t *testing.T) {
	t.Parallel()
	u := newUplink(t)
	dir := etc(t, firstResolver)
	serveDNS(t, u.far, firstResolver, named(firstServer))
	serveDNS(t, u.far, nextOther, named(nextServer))
	w := hostWorld(t, u.host, dir)
	mapped := perFamily{mapped4, mapped6}
	here, far, moved, elsewhere := perFamily{uplinkIPv4, uplinkIPv6}, perFamily{farIPv4, farIPv6}, perFamily{movedIPv4, movedIPv6}, perFamily{elsewhereIPv4, elseIPv6}
	ports := map[string]string{} // by family, of what the host and the far end serve

	servers := t // outlive the first look
	eachFamily(t, func(t *testing.T, f family) {
		if got := w.waitAddress(t, f.af); got.String() != here.of(f) {
			t.Errorf("the guest has %v, want the host's %s", got, here.of(f))
		}
		everywhere := serveTCP(servers, u.host, "tcp"+f.v, f.anyHost()+":0", tellPeer)
		ports["host"+f.v] = port(everywhere)
		if err := u.host.Do(loopbackUp); err != nil {
			t.Fatal(err)
		}
		hidden := serveTCP(t, u.host, "tcp"+f.v, net.JoinHostPort(f.loop, "0"), tellPeer)
		if peer, err := w.peerOf(t, f, hostPort(mapped.of(f), everywhere)); err != nil || peer != here.of(f) {
			t.Errorf("what stands for the host's address: peer %q, %v, want %s", peer, err, here.of(f))
		}
		if peer, err := w.peerOf(t, f, hostPort(mapped.of(f), hidden)); !isErrno(err, unix.ECONNREFUSED) {
			t.Errorf("a service of the host's loopback: peer %q, %v, want a refusal", peer, err)
		}
		neighbour := serveTCP(servers, u.far, "tcp"+f.v, f.anyHost()+":0", tellPeer)
		ports["far"+f.v] = port(neighbour)
		if peer, err := w.peerOf(t, f, hostPort(far.of(f), neighbour)); err != nil || peer != here.of(f) {
			t.Errorf("a neighbour in the subnet: peer %q, %v, want %s", peer, err, here.of(f))
		}
		if _, err := w.peerOf(t, f, hostPort(elsewhere.of(f), neighbour)); !isErrno(err, unix.ENETUNREACH) {
			t.Errorf("beyond the subnet, without a way out: %v", err)
		}
		datagrams := servePacket(servers, u.host, "udp"+f.v, f.anyHost()+":0", echoPacket)
		if err := says(w.dial(t, "udp"+f.v, net.JoinHostPort(mapped.of(f), port(datagrams.LocalAddr()))), "by datagram"); err != nil {
			t.Errorf("a datagram to what stands for the host's address: %v", err)
		}
		ports["udp"+f.v] = port(datagrams.LocalAddr())
	})
	ask := func(when, want string) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			if _, got, err := w.lookup(t, network, forwarder4, "example.org.", deadline); err != nil || got != want {
				t.Errorf("%s, over %s: %q, %v, want %s", when, network, got, err, want)
			}
		}
	}
	ask("the first nameserver", firstServer)
	writeConf(t, filepath.Join(dir, "resolv.conf"), nextOther)
	ask("resolv.conf replaced", nextServer)

	if err := u.move(); err != nil {
		t.Fatal(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		eventually(t, deadline, func() error {
			peer, err := w.peerOf(t, f, net.JoinHostPort(mapped.of(f), ports["host"+f.v]))
			if err == nil && peer != moved.of(f) {
				err = fmt.Errorf("peer %s", peer)
			}
			return err
		})
		if peer, err := w.peerOf(t, f, net.JoinHostPort(far.of(f), ports["far"+f.v])); err != nil || peer != moved.of(f) {
			t.Errorf("a neighbour, after the host has moved: peer %q, %v, want %s", peer, err, moved.of(f))
		}
		serveTCP(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.anyHostAddr(), publishedOnHost), tellPeer)
		in := client(t, u.far, "tcp"+f.v, net.JoinHostPort(moved.of(f), publishedOnHost))
		if peer, err := io.ReadAll(in); err != nil || string(peer) != far.of(f) {
			t.Errorf("the published port, after the host has moved: peer %q, %v, want %s", peer, err, far.of(f))
		}
		for _, to := range []string{mapped.of(f), moved.of(f)} { // each answers by its own name
			if err := says(w.dial(t, "udp"+f.v, net.JoinHostPort(to, ports["udp"+f.v])), "by datagram"); err != nil {
				t.Errorf("a datagram to the host at %s: %v", to, err)
			}
		}
	})
	if err := u.route(); err != nil {
		t.Fatal(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		if peer, err := w.peerOf(t, f, net.JoinHostPort(elsewhere.of(f), ports["far"+f.v])); err != nil || peer != moved.of(f) {
			t.Errorf("a default route that came later: peer %q, %v", peer, err)
		}
	})
	ask("all moved", nextServer)
}

// loopbackUp brings up the loopback interface of the calling thread's namespace.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// TestPastaAddrLater: on a host without any network the guest has addresses of its own,
// and reaches what the host can reach once it has one.
func TestPastaAddrLater(t *testing.T) {
	t.Parallel()
	u := &uplink{host: must(env.NewNS())(t), far: must(env.NewNS())(t)}
	t.Cleanup(func() { u.host.Close(); u.far.Close() })
	w := hostWorld(t, u.host, etc(t, farIPv4))
	if got := w.waitAddress(t, unix.AF_INET); got != netip.MustParseAddr("169.254.2.1") {
		t.Errorf("the guest has %v, want 169.254.2.1", got)
	}
	if err := u.make(); err != nil {
		t.Fatal(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		addr := serveTCP(t, u.far, "tcp"+f.v, f.anyHost()+":0", echoTCP)
		to := hostPort(perFamily{farIPv4, farIPv6}.of(f), addr)
		eventually(t, deadline, func() error { // the guest's link-local address is examined for a second
			c, err := w.Dial(timeout(t, time.Second), "tcp"+f.v, to)
			if err != nil {
				return err
			}
			defer c.Close()
			return says(c, "later")
		})
	})
}

// TestPastaAddrDatagramsOfAnySize pass, in fragments where the guest's MTU is small.
func TestPastaAddrDatagramsOfAnySize(t *testing.T) {
	t.Parallel()
	u := newUplink(t)
	w := hostWorld(t, u.host, etc(t, farIPv4))
	for _, mtu := range []int{65520, 1500} {
		if err := w.Do(func() error {
			l, err := netlink.LinkByName(tapName)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, mtu)
		}); err != nil {
			t.Fatal(err)
		}
		eachFamily(t, func(t *testing.T, f family) {
			server := servePacket(t, u.far, "udp"+f.v, f.anyHost()+":0", echoPacket)
			c := w.dial(t, "udp"+f.v, net.JoinHostPort(perFamily{farIPv4, farIPv6}.of(f), port(server.LocalAddr())))
			for _, size := range []int{1, 1472, 1473, 9000, 60000} {
				sent, got := random(1, size), make([]byte, 65536)
				if _, err := c.Write(sent); err != nil {
					t.Fatal(err)
				}
				if n, err := c.Read(got); err != nil || !bytes.Equal(got[:n], sent) {
					t.Fatalf("MTU %d: of %d bytes %d came back: %v", mtu, size, n, err)
				}
			}
		})
	}
}

// TestPastaAddrClientsAreSeen by their own addresses, but for the host's own, which are
// the guest's, too.
func TestPastaAddrClientsAreSeen(t *testing.T) {
	t.Parallel()
	u := newUplink(t)
	if err := u.host.Do(loopbackUp); err != nil {
		t.Fatal(err)
	}
	w := hostWorld(t, u.host, etc(t, farIPv4))
	serveTCP(t, w.NetNS, "tcp4", "0.0.0.0:"+publishedOnHost, tellPeer)
	for _, c := range []struct {
		name string
		from *uplink
		far  bool
		to   string
		want string
	}{
		{"another machine", u, true, uplinkIPv4, farIPv4},
		{"the host by its address", u, false, uplinkIPv4, mapped4},
		{"the host by loopback", u, false, "127.0.0.1", uplinkIPv4}, // the guest itself
	} {
		ns := u.host
		if c.far {
			ns = u.far
		}
		conn := client(t, ns, "tcp4", c.to+":"+publishedOnHost)
		if peer, err := io.ReadAll(conn); err != nil || string(peer) != c.want {
			t.Errorf("%s is seen as %q, %v, want %s", c.name, peer, err, c.want)
		}
	}
}

// TestPastaAddrRoutes: the guest's copies of the host's routes have their metrics, what is
// known of the way, and all hops with their weights.
func TestPastaAddrRoutes(t *testing.T) {
	t.Parallel()
	u := newUplink(t)
	routes := map[string]*netlink.Route{}
	for _, f := range []struct{ dst, one, other string }{
		{"0.0.0.0/0", farIPv4, "203.0.113.67"}, {"::/0", farIPv6, "2001:db8:5::3"},
	} {
		hop := func(gateway string, weight int) *netlink.NexthopInfo {
			return &netlink.NexthopInfo{Gw: net.ParseIP(gateway), Hops: weight - 1}
		}
		routes[f.dst] = &netlink.Route{Priority: 77, MTU: 1400, AdvMSS: 1300, MultiPath: []*netlink.NexthopInfo{hop(f.one, 1), hop(f.other, 5)}}
	}
	routes["198.18.0.0/15"] = &netlink.Route{Priority: 5, Gw: net.ParseIP(farIPv4), Window: 4096}
	for dst, r := range routes {
		r.Dst = must(netlink.ParseIPNet(dst))(t)
		if err := u.link(func(l netlink.Link) error {
			for _, h := range r.MultiPath {
				h.LinkIndex = l.Attrs().Index
			}
			if len(r.MultiPath) == 0 {
				r.LinkIndex = l.Attrs().Index
			}
			return netlink.RouteAdd(r)
		}); err != nil {
			t.Fatal(err)
		}
	}
	w := hostWorld(t, u.host, etc(t, farIPv4))
	for dst, r := range routes {
		want := routeText(r)
		if err := w.Do(func() error {
			list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, r, netlink.RT_FILTER_DST)
			if err == nil && (len(list) != 1 || routeText(&list[0]) != want) {
				t.Errorf("%s: %v, want %s", dst, list, want)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

// routeText is what two interfaces' routes have in common.
func routeText(r *netlink.Route) string {
	text := fmt.Sprint(r.Gw, " metric ", r.Priority, " mtu ", r.MTU, " advmss ", r.AdvMSS, " window ", r.Window)
	for _, h := range r.MultiPath {
		text += fmt.Sprint(", ", h.Gw, " ", h.Hops)
	}
	return text
}

// TestPastaAddrGroups: what the guest sends to a broadcast address or a group reaches the
// host's neighbours, and their answers come back, whoever they are from.
func TestPastaAddrGroups(t *testing.T) {
	t.Parallel()
	u := newUplink(t)
	if err := u.route(); err != nil {
		t.Fatal(err)
	}
	w := hostWorld(t, u.host, etc(t, farIPv4))
	const group4, group6 = "224.0.0.251", "ff02::fb"
	eachFamily(t, func(t *testing.T, f family) {
		w.waitAddress(t, f.af)
		l := servePacket(t, u.far, "udp"+f.v, f.anyHost()+":0", echoPacket).(*net.UDPConn)
		group := perFamily{group4, group6}.of(f)
		if err := u.far.Do(func() error {
			link, err := netlink.LinkByName(uplinkName)
			if err != nil {
				return err
			}
			setOption(t, l, func(fd int) error {
				if f.af == unix.AF_INET6 {
					m := &unix.IPv6Mreq{Interface: uint32(link.Attrs().Index), Multiaddr: netip.MustParseAddr(group).As16()}
					return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m)
				}
				m := &unix.IPMreqn{Ifindex: int32(link.Attrs().Index), Multiaddr: netip.MustParseAddr(group).As4()}
				return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, m)
			})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		to := []string{group}
		if f.af == unix.AF_INET {
			to = append(to, "255.255.255.255", "203.0.113.255")
		}
		for _, to := range to {
			c := w.listenPacket(t, f).(*net.UDPConn)
			setOption(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
			addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), l.LocalAddr().(*net.UDPAddr).AddrPort().Port()))
			if f.af == unix.AF_INET6 {
				addr.Zone = fmt.Sprint(w.link(t).Attrs().Index)
			}
			if _, err := c.WriteTo([]byte(to), addr); err != nil {
				t.Fatalf("to %s: %v", to, err)
			}
			b, from, err := receive(c, deadline)
			if err != nil || string(b) != to {
				t.Errorf("to %s: %q from %v, %v", to, b, from, err)
			}
		}
	})
}
