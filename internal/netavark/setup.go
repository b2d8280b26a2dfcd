package netavark

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
	"epiphyte/tap"
)

// request describes a container to setup and teardown.
type request struct {
	ID       string        `json:"container_id"`
	Name     string        `json:"container_name"`
	Hostname string        `json:"container_hostname"` // newer podmans
	Ports    []portMapping `json:"port_mappings"`
	Network  podmanNetwork `json:"network"`
	Wishes   wishes        `json:"network_options"`
}

// wishes is what a container asks of one network.
type wishes struct {
	Aliases   []string          `json:"aliases"`
	Interface string            `json:"interface_name"`
	Addresses []netip.Addr      `json:"static_ips"`
	MAC       string            `json:"static_mac"`
	Options   map[string]string `json:"options"`
}

// status is what a container has got from one network.
type status struct {
	Search     []string                `json:"dns_search_domains"`
	DNS        []netip.Addr            `json:"dns_server_ips"`
	Interfaces map[string]netInterface `json:"interfaces"`
}

type netInterface struct {
	MAC     string       `json:"mac_address"`
	Subnets []netAddress `json:"subnets"`
}

type netAddress struct {
	Address netip.Prefix `json:"ipnet"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
}

// setup makes the container in the namespace a member.
func (p *Plugin) setup(ctx context.Context, netns string, r *request) (*status, error) {
	wish, err := r.member(netns)
	if err != nil {
		return nil, err
	}
	if err := p.define(&r.Network); err != nil {
		return nil, err
	}
	c, info, err := network.Open(ctx, p.Paths.Socket(r.Network.Name), func(ctx context.Context) error {
		return p.startFromSetup(ctx, r.Network.Name)
	})
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", r.Network.Name, err)
	}
	defer c.Close()
	if err := r.Network.check(&info.Definition); err != nil {
		return nil, err
	}
	if info, err = c.Info(ctx); err != nil {
		return nil, err
	}
	// A killed container may come back before podman has cleaned up after it.
	if slices.ContainsFunc(info.Members, func(m network.Member) bool { return m.ID == r.ID }) {
		if err := c.Leave(ctx, r.ID); err != nil {
			return nil, err
		}
	}
	if !p.Rootless {
		wish.Publish, err = p.claim(ctx, r, info)
		if err != nil {
			return nil, err
		}
	}
	device := tap.Config{Target: tap.Target{NetNS: netns}, Name: r.Wishes.Interface, Logger: p.Logger}
	granted, info, err := p.Join(ctx, c, device, wish)
	if err != nil && len(wish.Publish) > 0 && strings.Contains(err.Error(), unix.EADDRINUSE.Error()) {
		err = fmt.Errorf("%w (%s)", err, hintReserved)
	}
	if err != nil {
		p.move(ctx, r.ID, wish.Publish) // back
		return nil, err
	}
	return statusOf(&granted, info), nil
}

// member returns the member that the container wants to be.
func (r *request) member(netns string) (network.Member, error) {
	m := network.Member{
		ID: r.ID, Name: r.Name, Aliases: r.Wishes.Aliases, Hostname: r.Hostname,
		MAC: r.Wishes.MAC, Detached: true, NetNS: netns,
	}
	for name := range r.Wishes.Options {
		return m, fmt.Errorf("a container on a network of epiphyte has no option %q: leave it out", name)
	}
	for _, a := range r.Wishes.Addresses {
		place := &m.IPv4
		if a.Is6() {
			place = &m.IPv6
		}
		if place.IsValid() {
			return m, fmt.Errorf("the addresses %v and %v are of one family: a member has one of each", *place, a)
		}
		*place = a
	}
	return m, nil
}

// define saves podman's definition of a network whose own was removed without podman's
// knowledge.
func (p *Plugin) define(n *podmanNetwork) error {
	if _, defined, err := p.Paths.Load(n.Name); err != nil || defined {
		return err
	}
	d, err := n.definition()
	if err != nil {
		return err
	}
	d.Stay = p.Rootless
	return p.Paths.Save(d)
}

// check returns an error if a running network is not the one that podman means.
func (n *podmanNetwork) check(running *netdef.Definition) error {
	for _, s := range n.Subnets {
		if p := s.Subnet.Masked(); p != running.Subnet && p != running.Subnet6 {
			return fmt.Errorf("network %s: podman's has the subnet %v, and the one that runs has %v: have its members leave, epiphyte network rm %s, and start the container again",
				n.Name, p, running.Subnet, n.Name)
		}
	}
	return nil
}

// statusOf tells podman what a member was granted.
func statusOf(m *network.Member, n *network.Info) *status {
	s := &status{Search: []string{}, DNS: []netip.Addr{}}
	if !n.NoDNS {
		s.Search, s.DNS = append(s.Search, n.Name), append(s.DNS, n.Gateway)
	}
	gateway, gateway6 := n.Gateway, n.Gateway6
	if n.Internal { // there is no route through it
		gateway, gateway6 = netip.Addr{}, netip.Addr{}
	}
	i := netInterface{MAC: m.MAC, Subnets: []netAddress{{netip.PrefixFrom(m.IPv4, n.Subnet.Bits()), gateway}}}
	if m.IPv6.IsValid() {
		i.Subnets = append(i.Subnets, netAddress{netip.PrefixFrom(m.IPv6, n.Subnet6.Bits()), gateway6})
	}
	s.Interfaces = map[string]netInterface{m.Interface: i}
	return s
}

// teardown has the container leave. It is no error if it has left already, or if the network
// is gone.
func (p *Plugin) teardown(ctx context.Context, r *request) error {
	c, info, err := network.Inspect(ctx, p.Paths.Socket(r.Network.Name))
	if err == network.ErrNotRunning {
		return nil
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", r.Network.Name, err)
	}
	defer c.Close()
	for _, m := range info.Members {
		if m.ID == r.ID {
			err := c.Leave(ctx, r.ID)
			p.move(ctx, r.ID, m.Publish)
			return err
		}
	}
	return nil
}
