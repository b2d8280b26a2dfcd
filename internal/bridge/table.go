package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"epiphyte/internal/addressing"
)

// Address holds the addresses that a member has been given. Those that it makes from
// MAC, one in the plan's IPv6 prefix and one link-local, are its own as well.
type Address struct {
	MAC  [6]byte
	IPv4 netip.Addr
	IPv6 netip.Addr // not valid: only those
}

func (a *Address) check(plan *addressing.Plan) error {
	switch {
	case a.MAC == [6]byte{} || toMany(a.MAC) || a.MAC == plan.MAC:
		return fmt.Errorf("%x is not an Ethernet address for a member", a.MAC)
	case !a.IPv4.Is4() || !plan.Prefix.Contains(a.IPv4):
		return fmt.Errorf("the address is not of the subnet %v", plan.Prefix)
	case a.IPv6.IsValid() && !plan.Prefix6.Contains(a.IPv6):
		return fmt.Errorf("%v is not of the subnet %v", a.IPv6, plan.Prefix6)
	case plan.IsOwn(a.IPv4) || a.IPv6.IsValid() && plan.IsOwn(a.IPv6):
		return errors.New("the address is the gateway's")
	}
	return nil
}

// table is an immutable set of ports.
type table struct {
	ports  []*Port
	byMAC  map[[6]byte]*Port
	byAddr map[netip.Addr]*Port
}

func newTable(ports []*Port) (*table, error) {
	t := &table{ports, make(map[[6]byte]*Port), make(map[netip.Addr]*Port)}
	for _, p := range ports {
		if t.byMAC[p.addr.MAC] != nil {
			return nil, fmt.Errorf("another member has %x", p.addr.MAC)
		}
		t.byMAC[p.addr.MAC] = p
		for _, a := range p.addresses() {
			if q := t.byAddr[a]; q != nil && q != p {
				return nil, fmt.Errorf("another member has %v", a)
			}
			t.byAddr[a] = p
		}
	}
	return t, nil
}

// addresses are those that only p may have.
func (p *Port) addresses() []netip.Addr {
	own := []netip.Addr{p.addr.IPv4}
	if plan := &p.bridge.cfg.Plan; plan.IPv6() {
		own = append(own, addressing.SLAAC(addressing.LinkLocal(), p.addr.MAC), addressing.SLAAC(plan.Prefix6, p.addr.MAC))
	}
	if p.addr.IPv6.IsValid() {
		own = append(own, p.addr.IPv6)
	}
	return own
}

func (t *table) with(p *Port) (*table, error) { return newTable(append(slices.Clip(t.ports), p)) }

func (t *table) without(p *Port) *table {
	fewer, _ := newTable(slices.DeleteFunc(slices.Clone(t.ports), func(q *Port) bool { return q == p })) // of addresses that differ
	return fewer
}

// owns6 reports whether p may use an IPv6 address.
func (t *table) owns6(p *Port, a netip.Addr) bool {
	if a == p.addr.IPv6 {
		return true
	}
	owner := t.byAddr[a]
	return owner == p || owner == nil && a.IsLinkLocalUnicast() && !p.bridge.cfg.Plan.IsOwn(a)
}
