// Package outbound chooses the source address of the host's sockets, and the interface by
// which they send.
//
// # Theory of operation
//
// A Source stands for --outbound-addr and --outbound-addr6: for each family an
// address, or an interface, of which the first address of the family is used. It is
// asked for every socket that is opened towards the outside, the resolver's
// included. An interface is looked up again when the last look is older than a
// second, so that a new lease or a reconnect is followed; between looks the
// answer is a field read under a lock that is never held for long.
//
// If an interface has no address, the socket fails to bind, and the guest sees an
// unreachable network, rather than packets leaving from an address that the user
// did not choose.
//
// This binds to an address, as that contract has it, not to a device: the
// routing table still decides where packets leave. Pasta's --outbound-if4 and
// --outbound-if6 are about the device (device.go): sockets are bound to it before they
// connect, and where one socket has many destinations each datagram names it, so that the
// host's own addresses are still reached.
package outbound

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// lookEvery is the age at which an interface's address is looked up anew. A
// look costs two netlink dumps, some tens of microseconds.
const lookEvery = time.Second

// Source chooses source addresses. The zero value, and nil, leave the choice to
// the kernel. It may be used by several goroutines.
type Source struct {
	v4, v6   choice
	by4, by6 device
	own      func(netip.Addr) bool // nil: not known
}

// choice is one family's.
type choice struct {
	set  bool
	name string // of the interface; empty: addr is fixed

	mu     sync.Mutex
	addr   netip.Addr // guarded by mu
	looked time.Time  // guarded by mu
}

// ErrNoAddress is the error while there is no address to bind to.
var ErrNoAddress = errors.New("the outbound interface has no address")

// SetIPv4 takes the argument of --outbound-addr: an IPv4 address, or the name
// of an interface that exists.
func (s *Source) SetIPv4(arg string) error { return s.v4.configure(arg, true) }

// SetIPv6 takes the argument of --outbound-addr6.
func (s *Source) SetIPv6(arg string) error { return s.v6.configure(arg, false) }

func (c *choice) configure(arg string, v4 bool) error {
	if a, err := netip.ParseAddr(arg); err == nil {
		if a.Is4() != v4 {
			return fmt.Errorf("%v is of the other family", a)
		}
		if a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return fmt.Errorf("%v is not an address of an interface", a)
		}
		c.set, c.addr, c.name = true, a, ""
		return nil
	}
	if _, err := net.InterfaceByName(arg); err != nil {
		return fmt.Errorf("%q is neither an address nor an interface", arg)
	}
	c.set, c.name = true, arg
	return nil
}

// ByInterface reports whether an address is that of an interface, which is looked up
// repeatedly.
func (s *Source) ByInterface() bool { return s != nil && (s.v4.name != "" || s.v6.name != "") }

// For returns the address to bind to for a socket towards dst; ok is false if the
// kernel chooses. ErrNoAddress: the interface has none.
func (s *Source) For(dst netip.Addr) (a netip.Addr, ok bool, err error) {
	if s == nil {
		return netip.Addr{}, false, nil
	}
	c := &s.v4
	if dst.Is6() {
		c = &s.v6
	}
	if !c.set {
		return netip.Addr{}, false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.name != "" && time.Since(c.looked) >= lookEvery {
		c.addr = first(c.name, dst.Is4())
		c.looked = time.Now()
	}
	if !c.addr.IsValid() {
		return netip.Addr{}, true, ErrNoAddress
	}
	return c.addr, true, nil
}

// first is the interface's first address of the family; not valid if there is
// none.
func first(name string, v4 bool) netip.Addr {
	addrs, err := InterfaceAddrs(name)
	if err != nil {
		return netip.Addr{}
	}
	if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is4() == v4 }); i >= 0 {
		return addrs[i]
	}
	return netip.Addr{}
}

// InterfaceAddrs are the addresses of an interface of the host that are not
// link-local, in the kernel's order.
func InterfaceAddrs(name string) ([]netip.Addr, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, errors.Unwrap(err))
	}
	list, err := ifi.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs, nil
}

// Missing says in a line for each choice that has no address now why. That may change:
// an interface may get one.
func (s *Source) Missing() (lines []string) {
	if s == nil {
		return nil
	}
	for _, c := range []*choice{&s.v4, &s.v6} {
		family := "IPv4"
		if c == &s.v6 {
			family = "IPv6"
		}
		switch {
		case !c.set:
		case c.name != "":
			if !first(c.name, c == &s.v4).IsValid() {
				lines = append(lines, fmt.Sprintf("interface %s has no %s address", c.name, family))
			}
		case !local(c.addr):
			lines = append(lines, fmt.Sprintf("no interface has the address %v", c.addr))
		}
	}
	return lines
}

// local reports whether a socket may be bound to the address.
func local(a netip.Addr) bool {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return !errors.Is(err, syscall.EADDRNOTAVAIL)
	}
	c.Close()
	return true
}

// String names the choices for a start-up line; empty without any.
func (c *choice) String() string {
	switch {
	case !c.set:
		return ""
	case c.name != "":
		return c.name
	}
	return c.addr.String()
}

// IPv4 describes what was set for IPv4, empty if nothing was.
func (s *Source) IPv4() string {
	if s == nil {
		return ""
	}
	return s.v4.String()
}

// IPv6 describes what was set for IPv6, empty if nothing was.
func (s *Source) IPv6() string {
	if s == nil {
		return ""
	}
	return s.v6.String()
}

// Equal reports whether both make the same choices.
func (s *Source) Equal(other *Source) bool {
	return s.IPv4() == other.IPv4() && s.IPv6() == other.IPv6()
}
