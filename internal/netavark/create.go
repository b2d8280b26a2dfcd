package netavark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
)

// create saves the definition of the network that podman describes, and returns the
// description with its subnets.
func (p *Plugin) create(ctx context.Context, description []byte) ([]byte, error) {
	var n podmanNetwork
	if err := json.Unmarshal(description, &n); err != nil {
		return nil, fmt.Errorf("read podman's description of the network: %w", err)
	}
	d, err := n.definition()
	if err != nil {
		return nil, err
	}
	if d.Policy != "" {
		if err := p.CheckPolicy(d.Policy); err != nil {
			return nil, err
		}
	}
	d.Stay = p.Rootless
	old, defined, err := p.Paths.Load(d.Name)
	if err != nil {
		return nil, err
	}
	running, err := p.makeWay(ctx, &d)
	if err != nil {
		return nil, err
	}
	if d, err = network.ChooseSubnets(ctx, p.Paths, d, p.Paths, p.Logger); err != nil {
		return nil, err
	}
	if d.Stay && !running {
		err = p.startFromHost(ctx, d.Name)
	}
	if err != nil {
		return nil, errors.Join(err, p.restore(d.Name, old, defined))
	}
	return n.fill(description, d)
}

// restore puts back what create has replaced.
func (p *Plugin) restore(name string, old netdef.Definition, defined bool) error {
	if defined {
		return p.Paths.Save(old)
	}
	return p.Paths.Remove(name)
}

// makeWay ends a running network of the same name that has no members. If it has some, it
// must be the one that podman creates, and d gets its subnets; else it is in the way.
func (p *Plugin) makeWay(ctx context.Context, d *netdef.Definition) (running bool, err error) {
	c, info, err := network.Inspect(ctx, p.Paths.Socket(d.Name))
	if err == network.ErrNotRunning {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer c.Close()
	if len(info.Members) > 0 {
		if !adopt(d, &info.Definition) {
			return false, fmt.Errorf("a network %s with %d members is running, and is another one: have them leave, or epiphyte network rm --force %s",
				d.Name, len(info.Members), d.Name)
		}
		return true, nil
	}
	if err := c.Stop(ctx); err != nil {
		return false, err
	}
	return false, network.AwaitEnd(ctx, p.Paths, d.Name)
}

// adopt fills in what d leaves open from a running network, and reports whether both are the
// same then.
func adopt(d, running *netdef.Definition) bool {
	same := *d
	if !same.Subnet.IsValid() {
		same.Subnet = running.Subnet
	}
	if !same.Subnet6.IsValid() && !same.IPv4Only {
		same.Subnet6 = running.Subnet6
	}
	if same.MTU == 0 {
		same.MTU = netdef.DefaultMTU
	}
	theirs := *running
	theirs.Stay = same.Stay
	if same != theirs {
		return false
	}
	d.Subnet, d.Subnet6 = same.Subnet, same.Subnet6
	return true
}
