package netavark

import (
	"context"
	"fmt"
	"net/netip"
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

// rules are what portfwd.Parse reads for the mapping. A port of all addresses is one of
// both families if the network has both.
func (m *portMapping) rules(ipv6 bool) (rules []string, err error) {
	hosts := []netip.Addr{{}}
	if m.HostIP != "" {
		if hosts[0], err = netip.ParseAddr(m.HostIP); err != nil {
			return nil, fmt.Errorf("publish port %d: %q is no address of a host", m.HostPort, m.HostIP)
		}
	} else if ipv6 {
		hosts = append(hosts, netip.IPv6Unspecified())
	}
	for proto := range strings.SplitSeq(m.Protocol, ",") {
		for _, host := range hosts {
			r := portfwd.Rule{Proto: proto, Host: host, HostPort: m.HostPort, GuestPort: m.ContainerPort}
			if m.Range > 1 {
				r.HostPortEnd = m.HostPort + m.Range - 1
			}
			if err := r.Validate(); err != nil {
				return nil, fmt.Errorf("publish port %d: %w", m.HostPort, err)
			}
			rules = append(rules, r.String())
		}
	}
	return rules, nil
}

// publish is the rules of the container's ports, none if another of our networks
// publishes them already.
func (p *Plugin) publish(ctx context.Context, r *request, n *network.Info) (rules []string, err error) {
	if len(r.Ports) == 0 || n.Internal || p.published(ctx, r.ID, n.Name) {
		return nil, nil
	}
	for i := range r.Ports {
		some, err := r.Ports[i].rules(n.Subnet6.IsValid())
		if err != nil {
			return nil, err
		}
		rules = append(rules, some...)
	}
	return rules, nil
}

// published reports whether a container has ports by another network than the named one.
func (p *Plugin) published(ctx context.Context, id, name string) bool {
	running, _ := p.Paths.Running().List() // broken ones do not run
	for _, d := range running {
		if d.Name == name {
			continue
		}
		c, info, err := network.Open(ctx, p.Paths.Socket(d.Name), nil)
		if err != nil {
			continue // it has just ended
		}
		c.Close()
		for _, m := range info.Members {
			if m.ID == id && len(m.Publish) > 0 {
				return true
			}
		}
	}
	return false
}
