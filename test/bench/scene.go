package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"epiphyte/test/harness"
)

// Addresses of a scene, from ranges reserved for documentation (RFC 5737).
const (
	hostAddr      = "192.0.2.1/24"
	hostGateway   = "192.0.2.254" // what pasta offers its guest as the host
	slirpGateway  = "10.0.2.2"    // what slirp4netns and we offer
	slirpResolver = "10.0.2.3"
	slirpGuest    = "10.0.2.100"
	pastaResolver = "192.0.2.253"
	vethHost      = "198.51.100.1/24"
	vethGuest     = "198.51.100.2/24"
)

// scene is what one sample is measured in: a host, a guest, a helper.
type scene struct {
	env       *harness.Env
	peer      peer
	host      *harness.NetNS
	guest     *harness.Guest
	neighbour *harness.Guest // on the same network; nil: none
	mtu       int
	helper    *helper // nil for a ceiling and before start

	client *harness.NetNS // where clients run
	server netip.Addr     // where servers listen, on the host
	port   uint16         // their port; 0: one that the kernel chooses
	target netip.Addr     // what a client connects to, to reach the server

	targetPort uint16 // 0: the server's own

	together bool    // client, helper and server are kept to one processor
	busy     *helper // runs without a rest; nil: nothing does

	servers   *harness.NetNS // where servers run
	published *published     // a port of the host leads to the server, in the guest; nil: none

	policed string // directory of the policy's files; empty: there is none
}

// newScene makes the namespaces for a peer, without a helper.
func newScene(e *harness.Env, p peer, mtu int) (s *scene, err error) {
	s = &scene{env: e, peer: p, mtu: mtu, server: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.host, err = e.NewNS(); err != nil {
		return nil, err
	}
	loMTU := 65536
	if p.Kind == kindLoopback {
		loMTU = mtu
	}
	if err := s.host.Do(func() error { return configureHost(loMTU) }); err != nil {
		return nil, fmt.Errorf("configure host: %w", err)
	}
	if err := forTraffic(s.host); err != nil {
		return nil, err
	}
	if s.guest, err = s.newGuest(); err != nil {
		return nil, err
	}
	s.client, s.servers = s.guest.NetNS, s.host
	switch p.Kind {
	case kindLoopback:
		s.client, s.target = s.host, s.server
	case kindVeth:
		s.server = netip.MustParsePrefix(vethHost).Addr()
		s.target = s.server
		err = s.connectVeth()
	default:
		// One that only publishes ports has no such address.
		s.target, _ = netip.ParseAddr(p.launch().hostAddr)
	}
	return s, err
}

// newGuest makes a guest, which the scene's end does not end.
func (s *scene) newGuest() (*harness.Guest, error) {
	g, err := s.env.NewGuest()
	if err != nil {
		return nil, err
	}
	if err := forTraffic(g.NetNS); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// forTraffic makes a namespace ready for generators: a client that connects often must
// not run out of ports.
func forTraffic(ns *harness.NetNS) error {
	return errors.Join(
		ns.Sysctl("net/ipv4/tcp_congestion_control", "reno"),
		ns.Sysctl("net/ipv4/ip_local_port_range", "1024 65535"))
}

// arrange puts client and server where a row wants them.
func (s *scene) arrange(r row) (err error) {
	s.together = r.together
	if r.beside {
		if s.busy, err = startProgram(s.host, "sh", "-c", "while :; do :; done"); err != nil {
			return err
		}
	}
	if r.neighbour {
		return s.meet()
	}
	if r.published != nil {
		s.publish(r.published)
	}
	if r.dns {
		s.resolve()
	}
	if r.policy != "" {
		return s.police(r.policy)
	}
	return nil
}

// start starts the helper and waits until it is ready.
func (s *scene) start(ctx context.Context) (err error) {
	switch {
	case s.peer.ceiling():
	case s.neighbour != nil && s.peer.Kind == kindOurs:
		s.helper, err = startNetwork(ctx, s)
	default:
		s.helper, err = s.peer.launch().start(ctx, s)
	}
	return err
}

func (s *scene) close() {
	for _, h := range []*helper{s.helper, s.busy} {
		if h != nil {
			h.kill()
		}
	}
	for _, g := range []*harness.Guest{s.guest, s.neighbour} {
		if g != nil {
			g.Close()
		}
	}
	if s.host != nil {
		s.host.Close()
	}
	if s.policed != "" {
		os.RemoveAll(s.policed)
	}
}

// configureHost runs in the host's namespace. Some helpers copy the addresses
// of the interface with the default route, so there is one, leading nowhere.
func configureHost(loMTU int) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetMTU(lo, loMTU), netlink.LinkSetUp(lo)); err != nil {
		return err
	}
	up, err := addVeth("up0", "up1", 1500)
	if err != nil {
		return err
	}
	peer, err := netlink.LinkByName("up1")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		return err
	}
	if err := raise(up, hostAddr); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Gw: net.ParseIP(hostGateway)})
}

// connectVeth joins host and guest by the kernel alone.
func (s *scene) connectVeth() error {
	if err := s.host.Do(func() error {
		host, err := addVeth("veth0", "veth1", s.mtu)
		if err != nil {
			return err
		}
		guest, err := netlink.LinkByName("veth1")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetNsPid(guest, s.guest.PID), raise(host, vethHost))
	}); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	return s.guest.Do(func() error {
		guest, err := netlink.LinkByName("veth1")
		if err != nil {
			return err
		}
		return raise(guest, vethGuest)
	})
}

func addVeth(name, peer string, mtu int) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerMTU: uint32(mtu)}); err != nil {
		return nil, fmt.Errorf("add veth %s: %w", name, err)
	}
	return netlink.LinkByName(name)
}

// raise gives a link an address and sets it up.
func raise(l netlink.Link, cidr string) error {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l))
}
