package netavark

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"epiphyte/internal/network"
	"epiphyte/portfwd"
)

// portMapping is a published port, or several in a row.
type portMapping struct {
	ContainerPort uint16 `json:"container_port"`
	HostIP        string `json:"host_ip"` // empty: all addresses
	HostPort      uint16 `json:"host_port"`
	Range         uint16 `json:"range"`    // how many; 0 is one
	Protocol      string `json:"protocol"` // several with commas between
}

// rules returns the mapping in the form of portfwd.Parse. A port on all addresses is
// published for both families if the network has both.
func (m *portMapping) rules(ipv6 bool) (rules []string, err error) {
	hosts := []netip.Addr{{}}
	if m.HostIP != "" {
		if hosts[0], err = netip.ParseAddr(m.HostIP); err != nil {
			return nil, fmt.Errorf("publish port %d: %q is not an address of a host", m.HostPort, m.HostIP)
		}
	} else if ipv6 {
		hosts = append(hosts, netip.IPv6Unspecified())
	}
	last := int(m.HostPort) + max(1, int(m.Range)) - 1
	if last > math.MaxUint16 {
		return nil, fmt.Errorf("publish port %d: there are no %d ports from there on", m.HostPort, m.Range)
	}
	for proto := range strings.SplitSeq(m.Protocol, ",") {
		for _, host := range hosts {
			r := portfwd.Rule{Proto: proto, Host: host, HostPort: m.HostPort, GuestPort: m.ContainerPort}
			if m.Range > 1 {
				r.HostPortEnd = uint16(last)
			}
			if err := r.Validate(); err != nil {
				return nil, fmt.Errorf("publish port %d: %w", m.HostPort, err)
			}
			rules = append(rules, r.String())
		}
	}
	return rules, nil
}

// rulesOf returns several mappings in the form of portfwd.Parse.
func rulesOf(ports []portMapping, ipv6 bool) (rules []string, err error) {
	for i := range ports {
		some, err := ports[i].rules(ipv6)
		if err != nil {
			return nil, err
		}
		rules = append(rules, some...)
	}
	return rules, nil
}

// place is a container's membership of one of our networks.
type place struct {
	network string
	member  network.Member
}

// places returns the memberships through which a container can be reached from outside, in
// the order of their interfaces' names: the first one publishes the container's ports.
func (p *Plugin) places(ctx context.Context, id string) (places []place) {
	running, _ := p.Paths.Running().List() // broken ones do not run
	for _, d := range running {
		c, info, err := network.Inspect(ctx, p.Paths.Socket(d.Name))
		if err != nil {
			continue // it has just ended
		}
		c.Close()
		for _, m := range info.Members {
			if m.ID == id && !info.Internal {
				places = append(places, place{d.Name, m})
			}
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return strings.Compare(a.member.Interface, b.member.Interface) })
	return places
}

// setPorts has the network of a place publish ports of a container.
func (p *Plugin) setPorts(ctx context.Context, at place, rules []string) error {
	c, _, err := network.Open(ctx, p.Paths.Socket(at.network), nil)
	if err != nil {
		return fmt.Errorf("network %s: %w", at.network, err)
	}
	defer c.Close()
	return c.SetPorts(ctx, at.member.ID, rules)
}

// claim returns the rules of a container's ports for a new place, and takes them from the
// place that had them. There are none if that one precedes the new one.
func (p *Plugin) claim(ctx context.Context, r *request, n *network.Info) (rules []string, err error) {
	if len(r.Ports) == 0 || n.Internal {
		return nil, nil
	}
	for _, at := range p.places(ctx, r.ID) {
		if at.network == n.Name {
			continue
		}
		if at.member.Interface < r.Wishes.Interface {
			return nil, nil
		}
		if err := p.setPorts(ctx, at, nil); err != nil {
			return nil, err
		}
	}
	return rulesOf(r.Ports, n.Subnet6.IsValid())
}

// move has the next place of a container that has left a network publish its ports, if it has
// another place.
func (p *Plugin) move(ctx context.Context, id string, rules []string) {
	if len(rules) == 0 {
		return
	}
	for _, at := range p.places(ctx, id) {
		err := p.setPorts(ctx, at, rules)
		if err == nil {
			return
		}
		p.Logger.Warn("ports of a container are not published any more", "error", err)
	}
}

// hintReserved is added to the error of a busy port: podman run by root binds the ports
// before it calls us, so that nobody else takes them meanwhile.
const hintReserved = "if it is podman that reserves it: enable_port_reservation = false in containers.conf, [engine]"
