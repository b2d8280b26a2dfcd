package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/spf13/pflag"

	"epiphyte/internal/names"
	"epiphyte/internal/netdef"
	"epiphyte/internal/network"
)

// MemberOptions are what a guest asks of the networks that it joins.
type MemberOptions struct {
	Networks []string
	Name     string
	Aliases  []string
	IPv4     netip.Addr // of the first network
	IPv6     netip.Addr // of the first network
	MAC      string     // of the first network
}

// addTo adds the flags.
func (o *MemberOptions) addTo(fs *pflag.FlagSet) {
	fs.Var(value{set: func(s string) error {
		if err := netdef.ValidName(s); err != nil {
			return err
		}
		for _, other := range o.Networks {
			if other == s {
				return fmt.Errorf("--network %s is given twice", s)
			}
		}
		o.Networks = append(o.Networks, s)
		return nil
	}}, "network", "join the network `NAME`, whose members find each other by name; repeatable: an interface for each")
	o.addWishes(fs)
	for _, name := range [...]string{"network", "name", "alias", "ip", "ip6", "mac"} {
		own(fs.Lookup(name))
	}
}

// addWishes adds the flags other than --network.
func (o *MemberOptions) addWishes(fs *pflag.FlagSet) {
	fs.Var(nameValue(func(s string) error {
		if o.Name != "" {
			return errors.New("--name is given twice: --alias adds more names")
		}
		o.Name = s
		return nil
	}), "name", "be found as `NAME` on the network")
	fs.Var(nameValue(func(s string) error { o.Aliases = append(o.Aliases, s); return nil }), "alias", "be found as `NAME`, too; members may share it; repeatable")
	fs.Var(addressValue("ip", "IPv4", &o.IPv4, netip.Addr.Is4), "ip", "have the IPv4 `ADDRESS` on the first network")
	fs.Var(addressValue("ip6", "IPv6", &o.IPv6, netip.Addr.Is6), "ip6", "have the IPv6 `ADDRESS` on the first network")
	fs.Var(value{set: func(s string) error {
		mac, err := net.ParseMAC(s)
		if err != nil || len(mac) != 6 {
			return fmt.Errorf("--mac: %q is not an Ethernet address, such as 02:00:00:00:00:01", s)
		}
		o.MAC = mac.String()
		return nil
	}}, "mac", "have the Ethernet `ADDRESS` on the first network")
}

func nameValue(set func(string) error) value {
	return value{set: func(s string) error {
		if err := names.Valid(s); err != nil {
			return err
		}
		return set(s)
	}}
}

func addressValue(name, kind string, dst *netip.Addr, family func(netip.Addr) bool) value {
	return value{set: func(s string) error {
		a, err := netip.ParseAddr(s)
		if err != nil || !family(a) || a.Zone() != "" {
			return fmt.Errorf("--%s: %q is not an %s address", name, s, kind)
		}
		*dst = a
		return nil
	}}
}

// checkWishes refuses wishes of a member without a network.
func (o *MemberOptions) checkWishes() error {
	if len(o.Networks) > 0 {
		return nil
	}
	for _, w := range []struct {
		given bool
		name  string
	}{
		{o.Name != "", "name"}, {len(o.Aliases) > 0, "alias"}, {o.IPv4.IsValid(), "ip"},
		{o.IPv6.IsValid(), "ip6"}, {o.MAC != "", "mac"},
	} {
		if w.given {
			return errors.New("--" + w.name + " is a wish of a network's member: say which network by --network")
		}
	}
	return nil
}

// wish is what the guest asks of network i.
func (o *MemberOptions) wish(i int, publish []string) network.Member {
	m := network.Member{Name: o.Name, Aliases: o.Aliases}
	if i == 0 {
		m.IPv4, m.IPv6, m.MAC, m.Publish = o.IPv4, o.IPv6, o.MAC, publish
	}
	return m
}
