package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/portfwd"
	"epiphyte/test/harness"
)

// resolverJob replaces the nameservers.
func (s *site) resolverJob() job {
	return job{name: "change of nameservers", pause: 6 * time.Second, do: func(_ context.Context, r *rand.Rand, _ *count) error {
		return writeResolvers(s.etc, r)
	}}
}

// portJob publishes a port, uses it and removes it.
func (s *site) portJob(e *harness.Env) job {
	port := s.first + publishedNow
	way := route{from: e.Host, to: at("127.0.0.1", port)}
	return job{name: "ports published and removed", pause: time.Second, do: func(ctx context.Context, r *rand.Rand, n *count) error {
		ports, err := s.api.Publish(ctx, portfwd.Rule{Host: netip.MustParseAddr("127.0.0.1"), HostPort: uint16(port), GuestPort: guestPort})
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		return errors.Join(
			way.exchange(ctx, s.servers.ledger, anyOrder(r), n),
			s.api.Unpublish(ctx, ports[0].ID),
			expect(ctx, way.from, way.to, unix.ECONNREFUSED))
	}}
}

// moving are addresses of the internet that only moveJob uses.
func moving() []string { return []string{"198.51.100.9/24", "2001:db8:2::9/64"} }

// moveJob takes an address of the internet away and gives it back: a machine that goes
// and returns. The guest sees the one and the other.
func (s *site) moveJob(e *harness.Env) job {
	return job{name: "servers that go and return", place: s.name, pause: 3 * time.Second, do: func(ctx context.Context, r *rand.Rand, n *count) error {
		for _, cidr := range moving() {
			host := netip.MustParsePrefix(cidr).Addr().String()
			way := route{from: s.guest.NetNS, to: at(host, netPort)}
			if err := harness.ChangeAddress(e.Net.Net, "down0", cidr, netlink.AddrDel); err != nil {
				return err
			}
			// The router would ask its neighbour for some time yet.
			if err := forget(e.Net.Router, "up0", host); err != nil {
				return err
			}
			gone := harness.Eventually(patience, func() error {
				short, cancel := context.WithTimeout(ctx, 3*time.Second)
				defer cancel()
				return expect(short, way.from, way.to, unix.EHOSTUNREACH)
			})
			if err := harness.ChangeAddress(e.Net.Net, "down0", cidr, netlink.AddrAdd); err != nil {
				return err
			}
			back := harness.Eventually(patience, func() error {
				return way.exchange(ctx, s.servers.ledger, anyOrder(r), n)
			})
			if err := errors.Join(gone, back); err != nil {
				return fmt.Errorf("%s: %w", host, err)
			}
		}
		return nil
	}}
}

// forget removes what a namespace knows of a neighbour, if it does.
func forget(ns *harness.NetNS, link, host string) error {
	return ns.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		err = netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(host)})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget neighbour %s: %w", host, err)
		}
		return nil
	})
}

// spare are further addresses of the host.
func spare() []string { return []string{"192.0.2.7/24", "2001:db8:1::7/64"} }

// sourceJob changes the address that the host's connections come from.
func sourceJob(e *harness.Env) job {
	usual := []string{harness.HostIPv4, harness.HostIPv6}
	return job{name: "change of the host's address", place: "host", pause: 4 * time.Second, do: func(_ context.Context, r *rand.Rand, _ *count) error {
		return e.Host.Do(func() error {
			up, err := netlink.LinkByName("up0")
			if err != nil {
				return err
			}
			for i, via := range []string{harness.RouterIPv4, harness.RouterIPv6} {
				source := net.ParseIP(usual[i])
				if r.IntN(2) == 0 {
					source, _, _ = net.ParseCIDR(spare()[i])
				}
				any := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
				if source.To4() == nil {
					any = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
				}
				if err := netlink.RouteReplace(&netlink.Route{LinkIndex: up.Attrs().Index, Dst: any, Gw: net.ParseIP(via), Src: source}); err != nil {
					return fmt.Errorf("set source address %v: %w", source, err)
				}
			}
			return nil
		})
	}}
}
