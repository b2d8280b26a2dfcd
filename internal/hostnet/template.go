package hostnet

import "net/netip"

// Template is what a guest gets for one family.
type Template struct {
	Link      Link
	Addresses []netip.Prefix // at least one, the main one first
	// Routes go through the interface, and have no source: the guest uses its own.
	Routes []Route
	// Gateway is the router of the default route, not valid if there is none, as on a
	// point-to-point link.
	Gateway netip.Addr
}

// Template returns what to copy from the host for a family: from the interface name or, if
// that is empty, the one of the preferred default route or else the only one that has an
// address. ErrNoInterface: none has that name. ok is false if there is nothing to copy.
func (n *Network) Template(name string, v6 bool) (t Template, ok bool, err error) {
	link, ok := n.templateLink(v6)
	if name != "" {
		link, err = n.Interface(name)
		ok = err == nil
	}
	if !ok {
		return Template{}, false, err
	}
	t = Template{Link: link, Addresses: n.addresses(link.Index, v6)}
	if len(t.Addresses) == 0 {
		return Template{}, false, nil
	}
	for _, r := range n.Routes {
		if r.Link == link.Index && r.Dst.Addr().Is6() == v6 {
			r.Source = netip.Addr{}
			t.Routes = append(t.Routes, r)
		}
	}
	if r := n.defaultRoute(v6, link.Index); r != nil && r.Gateway.Is6() == v6 {
		t.Gateway = r.Gateway
	}
	return t, true, nil
}

func (n *Network) templateLink(v6 bool) (found Link, ok bool) {
	if r := n.defaultRoute(v6, 0); r != nil {
		return n.link(r.Link)
	}
	for _, l := range n.Links {
		if !l.Up || l.Loopback || len(n.addresses(l.Index, v6)) == 0 {
			continue
		}
		if ok {
			return Link{}, false
		}
		found, ok = l, true
	}
	return found, ok
}
