package cli

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
	"epiphyte/tap"
)

// member is a guest's place on one network.
type member struct {
	network   string
	client    *network.Client // until joined
	info      *network.Info
	device    *tap.Device
	agent     *tap.AgentProcess // nil: no ports to publish by it
	policy    *memberPolicy     // nil: none
	granted   network.Member
	holder    *network.Holder
	wantsIPv6 bool
	hasIPv6   bool
}

// openNetwork connects to a network, and starts it if need be.
func openNetwork(ctx context.Context, paths netdef.Paths, name string) (*member, error) {
	c, info, err := network.Open(ctx, paths.Socket(name), network.Start(paths, name))
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	return &member{network: name, client: c, info: info}, nil
}

// openNetworks connects to all networks of a list, or to none.
func openNetworks(ctx context.Context, list []string) (all []*member, err error) {
	paths, err := netdef.DefaultPaths()
	if err != nil {
		return nil, err
	}
	for _, name := range list {
		m, err := openNetwork(ctx, paths, name)
		if err != nil {
			closeMembers(all)
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// join makes the interface in the target's namespaces, or attaches to it, and joins with it.
func (m *member) join(ctx context.Context, cfg tap.Config, wish network.Member, process *os.File) (err error) {
	if m.device, err = tap.Open(ctx, cfg); err != nil {
		return err
	}
	m.awaitAgent(ctx, cfg.Logger)
	wish.Interface = m.device.Name()
	if m.policy != nil {
		wish.Policy = m.policy.name
	}
	if wish.ID == "" {
		if wish.ID, err = namespaceID(cfg.Target); err != nil {
			return err
		}
	}
	granted, info, err := m.client.Join(ctx, wish, m.handover(process))
	if err != nil {
		return err
	}
	m.granted, m.info = *granted, info
	err = m.configure(ctx, cfg.Target)
	if err != nil && wish.Detached { // closing the connection would not end it
		m.client.Leave(context.WithoutCancel(ctx), granted.ID)
	}
	return err
}

// handover is what the network needs to serve the member.
func (m *member) handover(process *os.File) network.Handover {
	h := network.Handover{TAP: m.device.FD(), Agent: m.agent, Process: process}
	if m.policy != nil {
		h.Policy, h.Record = m.policy.sealed, m.policy.record
	}
	return h
}

// namespaceID tells a guest's network namespace from others, so that networks know which
// members are the same guest.
func namespaceID(t tap.Target) (string, error) {
	path := t.NetNS
	if t.PID > 0 {
		path = fmt.Sprintf("/proc/%d/ns/net", t.PID)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("network namespace %s: %w", path, err)
	}
	return fmt.Sprintf("netns-%d", st.Ino), nil
}

// configure gives the interface what the network has granted.
func (m *member) configure(ctx context.Context, target tap.Target) (err error) {
	mac, err := net.ParseMAC(m.granted.MAC)
	if err != nil {
		return fmt.Errorf("network %s: %w", m.network, err)
	}
	n := tap.Network{
		Address: netip.PrefixFrom(m.granted.IPv4, m.info.Subnet.Bits()),
		MTU:     m.info.MTU,
		MAC:     mac,
		Shared:  true, // the guest may have other interfaces
	}
	if m.granted.IPv6.IsValid() {
		n.Address6 = netip.PrefixFrom(m.granted.IPv6, m.info.Subnet6.Bits())
	}
	if !m.info.Internal {
		n.Gateway, n.Gateway6 = m.info.Gateway, m.info.Gateway6
	}
	m.wantsIPv6 = n.Address6.IsValid()
	m.hasIPv6, err = tap.Configure(ctx, target, m.granted.Interface, n)
	return err
}

// hold keeps the membership, whatever becomes of the network's processes.
func (m *member) hold(r *reporter) {
	m.holder = network.Hold(m.client, m.handover(nil), m.granted, r.log.With("network", m.network))
	if m.wantsIPv6 && !m.hasIPv6 {
		r.log.Warn("IPv6 is off in the guest; it gets IPv4 only", "network", m.network)
	}
}

// close leaves the network, and removes the interface. It may be called again.
func (m *member) close() {
	switch {
	case m.holder != nil:
		m.holder.Close()
	case m.client != nil:
		m.client.Close()
	}
	if m.agent != nil {
		m.agent.Close()
		m.agent = nil
	}
	if m.device != nil {
		m.device.Close()
	}
	m.policy.close()
}

func closeMembers(all []*member) {
	for _, m := range all {
		m.close()
	}
}

// removed delivers the members whose networks have removed them. The receiver must close
// each, so that the guest's routes lead to its other networks.
func removed(ctx context.Context, all []*member) <-chan *member {
	gone := make(chan *member, len(all))
	for _, m := range all {
		go func() {
			select {
			case <-m.holder.Ended():
				gone <- m
			case <-ctx.Done():
			}
		}()
	}
	return gone
}
