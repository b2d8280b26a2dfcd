package main

import (
	"context"
	"errors"

	"github.com/vishvananda/netlink"

	"epiphyte/test/harness"
)

// world is what a run is made of.
type world struct {
	env     *harness.Env
	servers *servers
	sites   []*site
}

func newWorld(ctx context.Context, e *harness.Env) (_ *world, err error) {
	w := &world{env: e, servers: &servers{ledger: newLedger()}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	for _, cidr := range spare() {
		if err := harness.ChangeAddress(e.Host, "up0", cidr, netlink.AddrAdd); err != nil {
			return nil, err
		}
	}
	// What is dialled in vain ends within seconds, not minutes.
	if err := e.Host.Sysctl("net/ipv4/tcp_syn_retries", "2"); err != nil {
		return nil, err
	}
	if err := errors.Join(
		w.servers.streams(e.Net.Net, at("0.0.0.0", netPort), at("::", netPort)),
		w.servers.streams(e.Host, at("127.0.0.1", hostPort), at("::1", hostPort)),
		w.servers.datagrams(e.Net.Net, at(harness.NetIPv4, netPort), at(harness.NetIPv6, netPort)),
		w.servers.datagrams(e.Host, at("127.0.0.1", hostPort), at("::1", hostPort)),
		w.servers.names(e.Net.Net)); err != nil {
		return nil, err
	}
	for i, site := range []struct {
		name    string
		options []string
	}{
		{"helper", []string{"--publish-mode=direct"}},
		{"helper with two queues", []string{"--publish-mode=stack", "--queues=2"}},
	} {
		s, err := newSite(ctx, e, w.servers, site.name, 18000+portsOfASite*i, site.options...)
		if err != nil {
			return nil, err
		}
		w.sites = append(w.sites, s)
	}
	return w, nil
}

func (w *world) close() {
	for _, s := range w.sites {
		s.close()
	}
	w.servers.close()
}

// jobs are those of all sites, and what changes the network around them.
func (w *world) jobs() (list []job, err error) {
	for _, s := range w.sites {
		of, err := s.jobs(w.env)
		if err != nil {
			return nil, err
		}
		list = append(list, of...)
	}
	return append(list, w.sites[0].moveJob(w.env), sourceJob(w.env)), nil
}

func (s *site) jobs(e *harness.Env) (list []job, err error) {
	routes := s.routes(e)
	for _, r := range routes {
		list = append(list, s.streamJob(r))
	}
	for _, r := range []route{routes[0], routes[4], routes[8]} { // out, published, exposed
		list = append(list, s.shortJob(r), s.burstJob(r))
	}
	guest := s.guest.NetNS
	published := s.first + publishedUDP
	list = append(list,
		s.deadEndJob(),
		datagramJob("UDP out", guest, guestIPv4, 20000, at(harness.NetIPv4, netPort)),
		datagramJob("UDP out", guest, guestIPv6, 20000, at(harness.NetIPv6, netPort)),
		datagramJob("UDP to the host's loopback", guest, guestIPv4, 20100, at(gatewayIPv4, hostPort)),
		datagramJob("UDP to the host's loopback", guest, guestIPv6, 20100, at(gatewayIPv6, hostPort)),
		datagramJob("UDP published", e.Net.Net, harness.NetIPv4, s.first, at(harness.HostIPv4, published)),
		datagramJob("UDP published", e.Net.Net, harness.NetIPv6, s.first, at(harness.HostIPv6, published)),
		s.nameJob("udp", dnsIPv4), s.nameJob("udp", dnsIPv6), s.nameJob("tcp", dnsIPv4), s.nameJob("tcp", dnsIPv6),
		s.resolverJob(), s.portJob(e))
	for _, to := range []string{harness.NetIPv4, harness.NetIPv6, gatewayIPv4, dnsIPv6} {
		j, err := s.pingJob(to)
		if err != nil {
			return nil, err
		}
		list = append(list, j)
	}
	for i := range list {
		list[i].place = s.name
	}
	return list, nil
}
