package portfwd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/connect"
	"epiphyte/internal/outbound"
	"epiphyte/internal/retry"
	"epiphyte/internal/sockio"
)

// Bound is a rule whose ports are bound and wait for a Manager to serve them;
// clients wait in the kernel's queues.
type Bound struct {
	rule Rule
	fds  []int // one for each port
}

// Bind binds the ports of all rules, or of none. Its errors are those of Add. Rules
// that conflict with each other fail at once.
func Bind(ctx context.Context, p addressing.Plan, rules []Rule) ([]*Bound, error) {
	rules = slices.Clone(rules)
	for i := range rules {
		if err := rules[i].resolve(&p); err != nil {
			return nil, fmt.Errorf("publish %v: %w", rules[i], err)
		}
		if err := rules[i].conflict(rules[:i]); err != nil {
			return nil, fmt.Errorf("publish %v: %w", rules[i], err)
		}
	}
	var list []*Bound
	for _, r := range rules {
		b, err := bindRule(ctx, r)
		if err != nil {
			for _, b := range list {
				b.Close()
			}
			return nil, err
		}
		list = append(list, b)
	}
	return list, nil
}

// bindRule binds the ports of a rule that is resolved.
func bindRule(ctx context.Context, r Rule) (*Bound, error) {
	b := &Bound{rule: r}
	for i := range r.Ports() {
		fd, err := bind(ctx, r.Proto, netip.AddrPortFrom(r.Host, r.HostPort+uint16(i)))
		if err != nil {
			b.Close()
			return nil, fmt.Errorf("publish %v: %w", r, err)
		}
		b.fds = append(b.fds, fd)
	}
	return b, nil
}

// Close gives the ports up, if no Manager has taken them over.
func (b *Bound) Close() {
	for _, fd := range b.fds {
		unix.Close(fd)
	}
	b.fds = nil
}

// resolve checks the rule and fills in what it leaves open.
func (r *Rule) resolve(p *addressing.Plan) error {
	if r.Proto == "" {
		r.Proto = TCP
	}
	if r.Interface != "" {
		if r.Host.IsValid() {
			return r.Validate()
		}
		host, err := firstAddress(r.Interface)
		if err != nil {
			return &FieldError{"host_addr", err}
		}
		r.Host, r.Interface = host, ""
	}
	if err := r.Validate(); err != nil {
		return err
	}
	r.Host, r.GuestPort = r.host(), r.guestPort()
	switch {
	case r.Host.Is6() && !r.Guest.Is4() && !p.IPv6():
		return badField("host_addr", "%v is an IPv6 address, and IPv6 is not enabled", r.Host)
	case p.IsOwn(r.Guest):
		return badField("guest_addr", "%v is the gateway's or the DNS server's, not the guest's", r.Guest)
	case r.Guest.IsValid():
	case !p.Guest.IsValid():
		return badField("guest_addr", "missing: the network has several members")
	case r.Host.Is4():
		r.Guest = p.Guest
	}
	return nil
}

// astray reports whether the rule leads to an address that the guest's interface
// cannot have. Such a rule works only where the guest forwards packets.
func (r *Rule) astray(p *addressing.Plan) bool {
	return r.Guest.IsValid() && !p.Prefix.Contains(r.Guest) && !(p.IPv6() && p.Prefix6.Contains(r.Guest))
}

// firstAddress is the first address of an interface, IPv4 before IPv6.
func firstAddress(name string) (netip.Addr, error) {
	addrs, err := outbound.InterfaceAddrs(name)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("interface %s has no address", name)
	}
	return addrs[max(0, slices.IndexFunc(addrs, netip.Addr.Is4))], nil
}

// conflict is the error of a rule that wants a port of one of the others. Unlike a
// port of another program it is not waited for. All rules are resolved.
func (r *Rule) conflict(others []Rule) error {
	for _, o := range others {
		sameHost := r.Host == o.Host || r.Host.Is4() == o.Host.Is4() && (r.Host.IsUnspecified() || o.Host.IsUnspecified())
		first := max(r.HostPort, o.HostPort)
		end := min(int(r.HostPort)+r.Ports(), int(o.HostPort)+o.Ports())
		if r.Proto == o.Proto && sameHost && int(first) < end {
			return &BindError{
				Proto: r.Proto, Addr: netip.AddrPortFrom(r.Host, first), Errno: unix.EADDRINUSE,
				Remedy: fmt.Sprintf("published by %v already", o),
			}
		}
	}
	return nil
}

// bindPatience is how long a busy port is tried again: a predecessor that was
// told to go needs some milliseconds, under load up to a second.
const (
	bindPatience = 2 * time.Second
	bindPause    = 20 * time.Millisecond
)

// backlog is the number of clients that may wait to be accepted; the kernel
// cuts it to net.core.somaxconn, which is 4096 since Linux 5.4.
const backlog = 4096

// bind opens, binds and, for TCP, listens.
func bind(ctx context.Context, proto string, at netip.AddrPort) (int, error) {
	var fd int
	var errno unix.Errno
	ended := retry.While(ctx, bindPatience, bindPause, func() bool {
		fd, errno = tryBind(proto, at)
		return errno == unix.EADDRINUSE
	})
	if errno != 0 {
		return -1, errors.Join(ended, bindError(proto, at, errno))
	}
	return fd, nil
}

func tryBind(proto string, at netip.AddrPort) (int, unix.Errno) {
	family, typ := unix.AF_INET, unix.SOCK_STREAM
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	var sa sockio.Addr
	sa.Set(at)
	if proto == UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err.(unix.Errno)
	}
	fail := func(err error) (int, unix.Errno) {
		unix.Close(fd)
		return -1, err.(unix.Errno)
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return fail(err)
		}
	}
	if proto == UDP {
		// As much as the kernel grants: a burst is taken batch by batch.
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sockio.ReceiveBuffer)
		if err := askDestination(fd, family); err != nil {
			return fail(err)
		}
		if errno := sockio.Bind(fd, &sa); errno != 0 {
			return fail(errno)
		}
		return fd, 0
	}
	// A port whose last connections are in TIME-WAIT is free to listen on.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fail(err)
	}
	if errno := sockio.Bind(fd, &sa); errno != 0 {
		return fail(errno)
	}
	connect.Prepare(fd)
	if err := unix.Listen(fd, backlog); err != nil {
		return fail(err)
	}
	return fd, 0
}
