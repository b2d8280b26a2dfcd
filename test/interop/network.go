package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// Addresses, from the ranges reserved for documentation (RFC 5737, RFC 3849).
const (
	hostIPv4  = "198.51.100.9"
	hostIPv6  = "2001:db8:2::9"
	hostIPv4b = "198.51.100.8" // a second one, for --outbound-addr
	hostIPv6b = "2001:db8:2::8"
	hostLink  = "up0"
	sideIPv4  = "198.51.100.7" // of a second interface, for --outbound-addr by name
	sideLink  = "side0"

	outsideIPv4  = "198.51.100.1"
	outsideIPv6  = "2001:db8:2::1"
	resolverIPv4 = "198.51.100.53"

	serverPort   = "7001" // answers outside, TCP and UDP
	loopbackPort = "7002" // answers on the host's 127.0.0.1 and ::1
	closedPort   = "7003" // nobody listens
	hostPort     = "7004" // answers on the host's own addresses alone

	serverName = "server.interop.test" // what the resolver knows
	rootName   = "l.root-servers.net"  // and what podman's own tests ask for
)

// network is the host's link to the outside and the servers there.
type network struct {
	outside *harness.NetNS
	closers []io.Closer
}

// newNetwork makes it; the caller's threads are in the host's namespace.
func newNetwork() (*network, error) {
	outside, err := new(harness.Env).NewNS()
	if err != nil {
		return nil, err
	}
	n := &network{outside: outside, closers: []io.Closer{outside}}
	if err = n.wire(); err == nil {
		err = n.serve()
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *network) close() {
	for _, c := range n.closers {
		_ = c.Close() // the namespace goes with the process
	}
}

func (n *network) wire() error {
	for name, value := range map[string]string{
		"ipv6/conf/default/accept_dad": "0",
		"ipv4/ping_group_range":        "0 2147483647",
	} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
			return err
		}
	}
	// Not by PID: the process's first thread may be one that was thrown away in
	// another namespace.
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	for name, peer := range map[string]string{hostLink: "down0", sideLink: "down1"} {
		if err := n.outside.Do(func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = peer
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(int(here.Fd()))})
		}); err != nil {
			return fmt.Errorf("make link %s: %w", name, err)
		}
	}
	err = errors.Join(
		up("lo"),
		up(hostLink, hostIPv4+"/24", hostIPv4b+"/24", hostIPv6+"/64", hostIPv6b+"/64"),
		up(sideLink, sideIPv4+"/32"),
		defaultRoute(outsideIPv4), defaultRoute(outsideIPv6))
	return errors.Join(err, n.outside.Do(func() error {
		return errors.Join(up("lo"),
			up("down0", outsideIPv4+"/24", resolverIPv4+"/24", outsideIPv6+"/64"))
	}))
}

func up(link string, cidrs ...string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	for _, c := range cidrs {
		a, err := netlink.ParseAddr(c)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if a.IP.Equal(net.ParseIP(hostIPv6b)) {
			// Deprecated, or the kernel takes the newest for its own.
			a.ValidLft, a.PreferedLft = math.MaxInt32, 0
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", c, link, err)
		}
	}
	return netlink.LinkSetUp(l)
}

func defaultRoute(via string) error {
	gw := net.ParseIP(via)
	dst := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	if gw.To4() != nil {
		dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: gw}); err != nil {
		return fmt.Errorf("route through %s: %w", via, err)
	}
	return nil
}

// serve starts the servers outside, on the host's loopback, and the resolver.
func (n *network) serve() error {
	here := func(f func() error) error { return f() }
	for _, s := range []struct {
		in   func(func() error) error
		addr string
	}{
		{n.outside.Do, net.JoinHostPort(outsideIPv4, serverPort)},
		{n.outside.Do, net.JoinHostPort(outsideIPv6, serverPort)},
		{here, net.JoinHostPort("127.0.0.1", loopbackPort)},
		{here, net.JoinHostPort("::1", loopbackPort)},
		{here, net.JoinHostPort(hostIPv4, hostPort)},
		{here, net.JoinHostPort(hostIPv6, hostPort)},
	} {
		if err := s.in(func() error {
			closers, err := listen(s.addr)
			n.closers = append(n.closers, closers...)
			return err
		}); err != nil {
			return err
		}
	}
	return n.resolve()
}

// resolve answers for the names that there are.
func (n *network) resolve() error {
	addr := net.JoinHostPort(resolverIPv4, "53")
	pc, err := n.outside.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	l, err := n.outside.Listen("tcp", addr)
	if err != nil {
		pc.Close()
		return err
	}
	for _, s := range []*dns.Server{
		{PacketConn: pc, Handler: dns.HandlerFunc(answer)},
		{Listener: l, Handler: dns.HandlerFunc(answer)},
	} {
		go s.ActivateAndServe() // until its socket is closed
	}
	n.closers = append(n.closers, pc, l)
	return nil
}

func exists(name string) bool {
	return name == dns.Fqdn(serverName) || name == dns.Fqdn(rootName) || strings.HasSuffix(name, policyZone)
}

func answer(w dns.ResponseWriter, q *dns.Msg) {
	r := new(dns.Msg).SetReply(q)
	if len(q.Question) != 1 || !exists(q.Question[0].Name) {
		r.Rcode = dns.RcodeNameError
	} else {
		h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET}
		switch h.Rrtype {
		case dns.TypeA:
			r.Answer = append(r.Answer, &dns.A{Hdr: h, A: net.ParseIP(outsideIPv4)})
		case dns.TypeAAAA:
			r.Answer = append(r.Answer, &dns.AAAA{Hdr: h, AAAA: net.ParseIP(outsideIPv6)})
		}
	}
	_ = w.WriteMsg(r) // the client asks again
}

// dialer makes connections from one of the two namespaces.
type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// fromOutside dials as a client that is not the host.
func (n *network) fromOutside(ctx context.Context, network, addr string) (net.Conn, error) {
	return n.outside.Dial(ctx, network, addr)
}

// fromHost dials as a client on the host itself.
func (n *network) fromHost(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}
