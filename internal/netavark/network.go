package netavark

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"

	"epiphyte/internal/netdef"
)

// podmanNetwork is podman's description of a network, as far as it matters to us.
type podmanNetwork struct {
	Name        string            `json:"name"`
	Interface   string            `json:"network_interface"`
	Subnets     []subnet          `json:"subnets"`
	Routes      []json.RawMessage `json:"routes"`
	IPv6        bool              `json:"ipv6_enabled"`
	Internal    bool              `json:"internal"`
	DNS         bool              `json:"dns_enabled"`
	DNSServers  []string          `json:"network_dns_servers"`
	Options     map[string]string `json:"options"`
	IPAMOptions map[string]string `json:"ipam_options"`
}

type subnet struct {
	Subnet     netip.Prefix    `json:"subnet"`
	Gateway    netip.Addr      `json:"gateway,omitzero"`
	LeaseRange json.RawMessage `json:"lease_range,omitempty"`
}

// definition returns the network that podman describes, with the subnets that it names.
func (n *podmanNetwork) definition() (netdef.Definition, error) {
	d := netdef.Definition{Name: n.Name, Internal: n.Internal, NoDNS: !n.DNS}
	err := errors.Join(n.refuse(), n.setSubnets(&d), n.setOptions(&d))
	d.IPv4Only = !n.IPv6 && !d.Subnet6.IsValid()
	if err == nil {
		err = d.Validate()
	}
	return d, err
}

// refuse returns an error for what our networks do not support.
func (n *podmanNetwork) refuse() error {
	switch {
	case n.Interface != "":
		return errors.New("these networks have no interface on the host: leave out --interface-name")
	case len(n.Routes) > 0:
		return errors.New("these networks have no routes but their own: leave out --route")
	case len(n.DNSServers) > 0:
		return errors.New("these networks ask the host's name servers: leave out --dns, or give it to podman run")
	}
	if driver := n.IPAMOptions["driver"]; driver != "" && driver != "host-local" {
		return fmt.Errorf("the IPAM driver %q cannot be: leave out --ipam-driver", driver)
	}
	return nil
}

// setSubnets takes over podman's subnets: at most one of either family.
func (n *podmanNetwork) setSubnets(d *netdef.Definition) error {
	for _, s := range n.Subnets {
		place := &d.Subnet
		if s.Subnet.Addr().Is6() {
			place = &d.Subnet6
		}
		if place.IsValid() {
			return fmt.Errorf("the subnets %v and %v are of one family: name one of each", *place, s.Subnet)
		}
		*place = s.Subnet.Masked()
		if gateway := place.Addr().Next(); s.Gateway.IsValid() && s.Gateway != gateway {
			return fmt.Errorf("the gateway of %v cannot be %v, it is the first address: leave out --gateway", *place, s.Gateway)
		}
	}
	return nil
}

func (n *podmanNetwork) setOptions(d *netdef.Definition) error {
	for name, text := range n.Options {
		var err error
		switch name {
		case "mtu":
			d.MTU, err = strconv.Atoi(text)
		case "isolate":
			d.Isolate, err = strconv.ParseBool(text)
		case "allow_host_loopback":
			d.AllowHostLoopback, err = strconv.ParseBool(text)
		case "policy":
			if d.Policy = text; !filepath.IsAbs(text) {
				return fmt.Errorf("the option policy cannot be %q: podman calls from other directories, so give the file's whole path", text)
			}
		default:
			return fmt.Errorf("the driver epiphyte has no option %q: it has mtu, isolate, allow_host_loopback and policy", name)
		}
		if err != nil {
			return fmt.Errorf("the option %s cannot be %q: give a number for mtu, true or false for the others", name, text)
		}
	}
	return nil
}

// fill returns podman's description with the subnets of d, each with its gateway, so that
// podman gives that address to no container. All else is unchanged.
func (n *podmanNetwork) fill(description []byte, d netdef.Definition) ([]byte, error) {
	subnets := slices.Clone(n.Subnets)
	for _, p := range [...]netip.Prefix{d.Subnet, d.Subnet6} {
		named := slices.ContainsFunc(subnets, func(s subnet) bool { return s.Subnet.Masked() == p })
		if p.IsValid() && !named {
			subnets = append(subnets, subnet{Subnet: p})
		}
	}
	for i := range subnets {
		subnets[i].Gateway = subnets[i].Subnet.Masked().Addr().Next()
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(description, &all); err != nil {
		return nil, err
	}
	for name, value := range map[string]any{"subnets": subnets, "ipv6_enabled": d.Subnet6.IsValid()} {
		b, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		all[name] = b
	}
	return json.Marshal(all)
}
