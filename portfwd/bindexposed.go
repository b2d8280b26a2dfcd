package portfwd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
)

// GuestSockets makes n sockets of a family (AF_INET, AF_INET6) and a type (SOCK_STREAM,
// SOCK_DGRAM) in the guest's network namespace: non-blocking, fresh, for the caller to
// close. Its error wraps EAFNOSUPPORT where the kernel lacks the family.
type GuestSockets func(ctx context.Context, family, typ, n int) ([]int, error)

// BindExposed binds the ports of all rules, or of none. Sockets stay in the namespace
// that they were made in, so our own process binds them. Ports below 1024 need
// CAP_NET_BIND_SERVICE in the guest's user namespace, which its owner has.
func BindExposed(ctx context.Context, p addressing.Plan, list []Exposed, sockets GuestSockets) (all []*Bound, err error) {
	if len(list) == 0 {
		return nil, nil // see Bind
	}
	list = slices.Clone(list)
	for i := range list {
		if err = list[i].resolve(); err == nil {
			err = list[i].conflict(list[:i])
		}
		if err != nil {
			return nil, fmt.Errorf("expose port %v: %w", list[i], err)
		}
	}
	return bindExposed(ctx, &p, ephemeralPorts(), list, sockets)
}

// bindExposed binds rules that are resolved, or none.
func bindExposed(ctx context.Context, p *addressing.Plan, clients portRange, list []Exposed, sockets GuestSockets) (all []*Bound, err error) {
	places := make([][]place, len(list))
	fresh := make(freshSockets)
	defer fresh.close()
	for i := range list {
		if !list[i].Auto { // bound later, when they have a server
			places[i] = list[i].places(p, clients)
		}
	}
	if err := fresh.order(ctx, list, places, sockets); err != nil {
		return nil, err
	}
	for i, e := range list {
		b := &Bound{exposed: &e}
		all = append(all, b)
		for _, at := range places[i] {
			if err := b.expose(ctx, at, fresh); err != nil {
				closeAll(all)
				return nil, fmt.Errorf("expose port %v: %w", e, err)
			}
		}
	}
	return all, nil
}

// expose takes a place in the guest, unless the kernel lacks its family and the rule does
// not name it.
func (b *Bound) expose(ctx context.Context, at place, fresh freshSockets) error {
	fd := fresh.next(at)
	if fd < 0 {
		return nil
	}
	err := at.take(ctx, fd, b.exposed.lenient())
	switch {
	case err == nil:
		b.sockets = append(b.sockets, bound{fd, at.addr.Port()})
		return nil
	case b.exposed.lenient() && ctx.Err() == nil:
		unix.Close(fd)
		b.leftOut = err
		return nil
	}
	unix.Close(fd)
	return err
}

// socketKind is a family and a type.
type socketKind struct{ family, typ int }

// freshSockets are sockets of the guest that are not bound yet.
type freshSockets map[socketKind][]int

// order has sockets made for all places.
func (f freshSockets) order(ctx context.Context, list []Exposed, places [][]place, sockets GuestSockets) error {
	need := make(map[socketKind]int)
	named := make(map[socketKind]bool)
	for i := range places {
		for _, at := range places[i] {
			need[at.kind()]++
			named[at.kind()] = named[at.kind()] || list[i].Guest.IsValid()
		}
	}
	if len(need) > 0 && sockets == nil {
		return errors.New("expose ports: the guest's network namespace is not known, or no longer open to us")
	}
	for kind, n := range need {
		fds, err := sockets(ctx, kind.family, kind.typ, n)
		if err != nil && (named[kind] || kind.family == unix.AF_INET || !errors.Is(err, unix.EAFNOSUPPORT)) {
			return fmt.Errorf("expose ports: %w", err)
		}
		f[kind] = fds
	}
	return nil
}

// next is a socket for a place, -1 if there are none of its kind.
func (f freshSockets) next(at place) int {
	fds := f[at.kind()]
	if len(fds) == 0 {
		return -1
	}
	f[at.kind()] = fds[1:]
	return fds[0]
}

func (f freshSockets) close() {
	for _, fds := range f {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

func (e *Exposed) lenient() bool { return e.BestEffort || e.Auto }

// resolve checks the rule and fills in what it leaves open, except addresses.
func (e *Exposed) resolve() error {
	if e.Proto == "" {
		e.Proto = TCP
	}
	if err := e.Validate(); err != nil {
		return err
	}
	e.HostPort = e.hostPort()
	if e.GuestPortEnd == e.GuestPort {
		e.GuestPortEnd = 0
	}
	return nil
}

// conflict returns an error if the rule wants a port of one of the others. All rules are
// resolved.
func (e *Exposed) conflict(others []Exposed) error {
	for i := range others {
		o := &others[i]
		first := max(e.GuestPort, o.GuestPort)
		end := min(int(e.GuestPort)+e.Ports(), int(o.GuestPort)+o.Ports())
		apart := e.Proto != o.Proto || e.Guest != o.Guest && e.Guest.IsValid() && o.Guest.IsValid() &&
			!e.Guest.IsUnspecified() && !o.Guest.IsUnspecified()
		if int(first) < end && !apart && !e.lenient() && !o.lenient() {
			at := netip.AddrPortFrom(loopback4(), first)
			if e.Guest.IsValid() {
				at = netip.AddrPortFrom(e.Guest, first)
			}
			b := bindError(place{proto: e.Proto, addr: at, device: e.Device, guest: true}, unix.EADDRINUSE)
			b.Remedy = fmt.Sprintf("it leads to host port %d already", int(o.HostPort)+int(first-o.GuestPort))
			return b
		}
	}
	return nil
}

// places are where in the guest the rule listens. A lenient one leaves out ports of clients.
func (e *Exposed) places(p *addressing.Plan, clients portRange) (list []place) {
	for i := range e.Ports() {
		port := e.GuestPort + uint16(i)
		if e.lenient() && clients.contains(port) {
			continue
		}
		for _, a := range e.addresses(p) {
			list = append(list, e.place(a, port))
		}
	}
	return list
}

// place is where the rule listens at one of its addresses and ports. The address need not
// exist yet: a loopback interface that is down has none.
func (e *Exposed) place(a netip.Addr, port uint16) place {
	return place{proto: e.Proto, addr: netip.AddrPortFrom(a, port), device: e.Device, freebind: true, guest: true}
}

// addresses are those to listen on in the guest.
func (e *Exposed) addresses(p *addressing.Plan) []netip.Addr {
	all := []netip.Addr{loopback4(), netip.IPv6Loopback()}
	switch {
	case e.Guest.IsValid():
		return []netip.Addr{e.Guest}
	case e.Device != "":
		all = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	switch {
	case !p.IPv6():
		return all[:1]
	case !p.IPv4():
		return all[1:]
	}
	return all
}

func loopback4() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// loopbackLike is the loopback address of a's family.
func loopbackLike(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Loopback()
	}
	return loopback4()
}
