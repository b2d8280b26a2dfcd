package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"epiphyte/internal/rtnetlink"
)

// ErrNoInterface means that no interface has the name.
var ErrNoInterface = errors.New("no such interface")

// Network is what the host had when it was read.
type Network struct {
	Links     []Link    // by index
	Addresses []Address // in the kernel's order
	Routes    []Route   // of the main table, unicast; those to one destination by metric
}

// Link is a network interface.
type Link struct {
	Index    int
	Name     string
	Up       bool
	Loopback bool
}

// Address is an address of an interface. Link-local addresses are left out, and those that
// duplicate address detection has not confirmed.
type Address struct {
	Link       int
	Prefix     netip.Prefix // with its host part
	Deprecated bool         // new flows should not use it
}

// Route is a route through one interface; a route through several becomes several.
type Route struct {
	Link int
	Dst  netip.Prefix
	Hop
	More    []Hop      // further ones on the same interface, which share the flows with the first
	Source  netip.Addr // of packets whose sender does not choose one; not valid: any
	Metric  uint32
	Metrics []byte // attributes of the path, such as its MTU (RTA_METRICS); nil: none
	Scope   uint8  // RT_SCOPE_*
	TOS     uint8
	Kernel  bool // made by the kernel for an address
}

// Hop is where a route leads on its interface.
type Hop struct {
	Gateway netip.Addr // not valid: the destination is on the link. May be IPv6 for an IPv4 route (RFC 5549)
	OnLink  bool       // the gateway is on the link, although no route says so
	Weight  uint8      // of a route with several hops: its share, less one (rtnh_hops of linux/rtnetlink.h)
}

// Default reports whether the route is a default route.
func (r *Route) Default() bool { return r.Dst.Bits() == 0 }

// read asks for all lists.
func read(c *rtnetlink.Conn) (*Network, error) {
	n := new(Network)
	for _, list := range [...]struct {
		what string
		read func(*Network, *rtnetlink.Conn) error
	}{{"interfaces", readLinks}, {"addresses", readAddresses}, {"routes", readRoutes}} {
		if err := list.read(n, c); err != nil {
			return nil, fmt.Errorf("read the host's %s: %w", list.what, err)
		}
	}
	slices.SortStableFunc(n.Links, func(a, b Link) int { return a.Index - b.Index })
	return n, nil
}

// link is the interface of an index.
func (n *Network) link(index int) (Link, bool) {
	i := slices.IndexFunc(n.Links, func(l Link) bool { return l.Index == index })
	if i < 0 {
		return Link{}, false
	}
	return n.Links[i], true
}

// Interface is the interface of a name. ErrNoInterface: there is none.
func (n *Network) Interface(name string) (Link, error) {
	i := slices.IndexFunc(n.Links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return Link{}, fmt.Errorf("interface %s: %w", name, ErrNoInterface)
	}
	return n.Links[i], nil
}

// defaultRoute returns the preferred default route of a family, nil if there is none; link,
// if not zero, is the interface that it must go through.
func (n *Network) defaultRoute(v6 bool, link int) (best *Route) {
	for i := range n.Routes {
		r := &n.Routes[i]
		if r.Default() && r.Dst.Addr().Is6() == v6 && (link == 0 || r.Link == link) && (best == nil || r.Metric < best.Metric) {
			best = r
		}
	}
	return best
}

// addresses returns an interface's addresses of a family, deprecated ones last.
func (n *Network) addresses(link int, v6 bool) (list []netip.Prefix) {
	for _, deprecated := range [...]bool{false, true} {
		for _, a := range n.Addresses {
			if a.Link == link && a.Prefix.Addr().Is6() == v6 && a.Deprecated == deprecated {
				list = append(list, a.Prefix)
			}
		}
	}
	return list
}

// Main is the host's main address of a family: the source that its default route names, or
// else the first address of that route's interface; if there is no such route or address, one
// of another interface. It is not valid if there are only loopback addresses. An interface
// prefer that has an address takes precedence.
func (n *Network) Main(v6 bool, prefer string) netip.Addr {
	if l, err := n.Interface(prefer); err == nil {
		if a := n.mainOf(l.Index, n.defaultRoute(v6, l.Index), v6); a.IsValid() {
			return a
		}
	}
	if r := n.defaultRoute(v6, 0); r != nil {
		if a := n.mainOf(r.Link, r, v6); a.IsValid() {
			return a
		}
	}
	for _, l := range n.Links {
		if a := n.mainOf(l.Index, nil, v6); l.Up && !l.Loopback && a.IsValid() {
			return a
		}
	}
	return netip.Addr{}
}

func (n *Network) mainOf(link int, by *Route, v6 bool) netip.Addr {
	if by != nil && slices.ContainsFunc(n.Addresses, func(a Address) bool { return a.Prefix.Addr() == by.Source }) {
		return by.Source
	}
	if list := n.addresses(link, v6); len(list) > 0 {
		return list[0].Addr()
	}
	return netip.Addr{}
}

// loopback reports whether flags are those of the loopback interface.
func loopback(flags uint32) bool { return flags&unix.IFF_LOOPBACK != 0 }
