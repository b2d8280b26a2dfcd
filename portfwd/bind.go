package portfwd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/internal/outbound"
)

// Bound is a rule whose ports are bound and wait for a Manager to serve them;
// clients wait in the kernel's queues.
type Bound struct {
	rule    Rule     // published
	exposed *Exposed // or exposed, then not nil
	sockets []bound
	leftOut error // why ports of BestEffort are missing; nil: none is
}

// bound is a socket at a port of a rule.
type bound struct {
	fd   int
	port uint16
}

// Bind binds the ports of all rules, or of none. Its errors are those of Add. Rules
// that conflict with each other fail at once. Those with BestEffort are bound last,
// wherever they stand, so that they take no port of another rule.
func Bind(ctx context.Context, p addressing.Plan, rules []Rule) ([]*Bound, error) {
	if len(rules) == 0 {
		return nil, nil // saves a start from reading the kernel's port range
	}
	rules = slices.Clone(rules)
	for i := range rules {
		err := rules[i].resolve(&p)
		if err == nil {
			err = rules[i].conflict(rules[:i])
		}
		if err != nil {
			return nil, fmt.Errorf("publish %v: %w", rules[i], err)
		}
	}
	b := binder{clients: ephemeralPorts()}
	return b.all(ctx, rules)
}

// binder binds ports of the host.
type binder struct {
	clients portRange     // left out by BestEffort
	spare   map[place]int // bound sockets of rules that are removed
}

// all binds rules that are resolved, in their order, or none.
func (b *binder) all(ctx context.Context, rules []Rule) ([]*Bound, error) {
	list := make([]*Bound, len(rules))
	for _, lenient := range [...]bool{false, true} {
		for i := range rules {
			r := &rules[i]
			if r.lenient() != lenient {
				continue
			}
			var err error
			if list[i], err = b.rule(ctx, r); err != nil {
				closeAll(list)
				return nil, fmt.Errorf("publish %v: %w", *r, err)
			}
		}
	}
	return list, nil
}

// rule binds the ports of a rule, all or none, or with BestEffort those that it can. Ports
// with Auto are bound later, when they have a server.
func (b *binder) rule(ctx context.Context, r *Rule) (*Bound, error) {
	made := &Bound{rule: *r}
	if r.Auto {
		return made, nil
	}
	enough := 1 << 20
	if r.BestEffort {
		enough = descriptorsToSpare()
	}
	for i := range r.Ports() {
		port := r.HostPort + uint16(i)
		if r.BestEffort && b.clients.contains(port) {
			continue
		}
		at := r.place(port)
		fd, err := b.bind(ctx, at, r.BestEffort)
		switch {
		case err == nil && fd >= enough:
			unix.Close(fd)
			made.leftOut = bindError(at, unix.EMFILE)
			return made, nil
		case err == nil:
			made.sockets = append(made.sockets, bound{fd, port})
		case r.BestEffort && ctx.Err() == nil:
			made.leftOut = err
		default:
			made.Close()
			return nil, err
		}
	}
	return made, nil
}

// bind returns a socket at a place.
func (b *binder) bind(ctx context.Context, at place, once bool) (int, error) {
	if fd, ok := b.spare[at]; ok {
		delete(b.spare, at)
		return fd, nil
	}
	return at.open(ctx, once)
}

// close closes the sockets that were not used.
func (b *binder) close() {
	for _, fd := range b.spare {
		unix.Close(fd)
	}
}

func closeAll(list []*Bound) {
	for _, b := range list {
		b.Close()
	}
}

// Close gives the ports up, if no Manager has taken them over.
func (b *Bound) Close() {
	if b == nil {
		return
	}
	for _, s := range b.sockets {
		unix.Close(s.fd)
	}
	b.sockets = nil
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
	if r.DualStack {
		r.oneStack(p)
	}
	r.Host, r.GuestPort = r.host(), r.guestPort()
	switch {
	case r.Host.Is6() && !r.DualStack && !r.Guest.Is4() && !p.IPv6():
		return badField("host_addr", "%v is an IPv6 address, and IPv6 is not enabled", r.Host)
	case p.IsOwn(r.Guest):
		return badField("guest_addr", "%v is the gateway's or the DNS server's, not the guest's", r.Guest)
	case r.Guest.IsValid():
	case r.Host.Is4() && !p.Prefix.IsValid():
		return badField("host_addr", "%v is an IPv4 address, and IPv4 is not enabled", r.Host)
	case !p.Guest.IsValid() && p.Prefix.IsValid():
		return badField("guest_addr", "the address of a guest is missing: the network has several members")
	case r.Host.Is4() && !p.Outside: // where it is not the guest's own choice
		r.Guest = p.Guest
	}
	return nil
}

// oneStack restricts a dual-stack rule to one family where the guest or the host's kernel
// lacks the other.
func (r *Rule) oneStack(p *addressing.Plan) {
	switch {
	case !hostHasIPv6(), !r.Guest.IsValid() && !p.IPv6():
		r.DualStack, r.Host = false, netip.IPv4Unspecified()
	case !r.Guest.IsValid() && !p.Prefix.IsValid():
		r.DualStack, r.Host = false, netip.IPv6Unspecified()
	}
}

// astray reports whether the rule leads to an address that the guest's interface
// cannot have. Such a rule works only where the guest forwards packets.
func (r *Rule) astray(p *addressing.Plan) bool {
	return !p.Outside && r.Guest.IsValid() && !p.Prefix.Contains(r.Guest) && !(p.IPv6() && p.Prefix6.Contains(r.Guest))
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

// lenient reports whether the rule leaves out the ports that cannot be bound.
func (r *Rule) lenient() bool { return r.BestEffort || r.Auto }

// overlaps reports whether sockets of the rules at one port exclude each other.
func (r *Rule) overlaps(o *Rule) bool {
	switch {
	case r.Proto != o.Proto || r.Device != "" && o.Device != "" && r.Device != o.Device:
		return false
	case r.Host == o.Host:
		return true
	}
	oneFamily := r.Host.Is4() == o.Host.Is4() || r.DualStack || o.DualStack
	return oneFamily && (r.Host.IsUnspecified() || o.Host.IsUnspecified())
}

// conflict returns an error if the rule wants a port of one of the others. Unlike a
// port of another program it is not waited for. All rules are resolved.
func (r *Rule) conflict(others []Rule) error {
	for i := range others {
		o := &others[i]
		first := max(r.HostPort, o.HostPort)
		end := min(int(r.HostPort)+r.Ports(), int(o.HostPort)+o.Ports())
		if int(first) < end && !r.lenient() && !o.lenient() && r.overlaps(o) {
			e := bindError(r.place(first), unix.EADDRINUSE)
			e.Remedy = fmt.Sprintf("published by %v already", *o)
			return e
		}
	}
	return nil
}
