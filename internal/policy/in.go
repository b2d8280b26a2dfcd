package policy

import (
	"cmp"
	"net/netip"

	"golang.org/x/sys/unix"
)

// decideReply says under which address the guest sees a host-side sender, and
// whether it may see it at all. It is the inverse of decideOut: an answer comes from the
// address that the guest asked; packets from the host's loopback come from the address that
// stands for it, and only where the guest may reach host loopback in the first place.
func (r *Rules) decideReply(q *Request) Decision {
	src := netip.AddrPortFrom(q.Src.Addr().Unmap().WithZone(""), q.Src.Port())
	a := src.Addr()
	if !r.inverts(q, a) {
		a = r.seenAs(src, q.Dst.Addr())
	} else {
		a = q.Asked
	}
	if !a.IsValid() {
		return Decision{}
	}
	return Decision{Action: Allow, From: netip.AddrPortFrom(a, src.Port()), To: q.Dst}
}

// inverts reports whether the address that the guest has asked still leads to src.
func (r *Rules) inverts(q *Request, src netip.Addr) bool {
	if !q.Asked.IsValid() {
		return false
	}
	d := r.decideOut(&Request{Guest: q.Guest, Proto: q.Proto, Src: q.Dst, Dst: netip.AddrPortFrom(q.Asked, q.Src.Port())})
	return d.Action == Allow && d.To.Addr() == src
}

// seenAs is the address under which the guest sees a sender, not valid if it may not.
func (r *Rules) seenAs(src netip.AddrPort, guest netip.Addr) netip.Addr {
	a := src.Addr()
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.Is4() != guest.Is4():
		return netip.Addr{}
	case a.IsLoopback() && r.DisableHostLoopback:
		return netip.Addr{}
	case a.IsLoopback():
		return r.Plan.LoopbackFor(guest)
	case r.speaksForUs(src):
		return netip.Addr{}
	case r.Plan.IsGuest(a):
		return cmp.Or(r.Plan.HostAddrFor(guest), a)
	}
	return a
}

// speaksForUs reports whether a sender outside has an address by which the guest knows
// the host or the resolver.
func (r *Rules) speaksForUs(src netip.AddrPort) bool {
	switch a, p := src.Addr(), &r.Plan; {
	case p.IsHostLoopback(a), p.IsHostAddr(a):
		return true
	case p.IsDNS(a) && p.Outside:
		return !r.DisableDNS && (src.Port() == portDNS || src.Port() == portDNSTLS)
	case p.IsDNS(a):
		return !r.DisableDNS || a.IsLinkLocalUnicast()
	default:
		return p.IsOwn(a)
	}
}

// decidePublished says under which address the guest sees a client of a published port. A
// guest without a device has no such clients.
func (r *Rules) decidePublished(q *Request) Decision {
	if r.off(q.Proto) || r.Plan.LoopbackOnly() {
		return Decision{Action: Refuse, Errno: unix.ECONNREFUSED}
	}
	return Decision{Action: Allow, From: r.visible(q.Src, q.Dst.Addr()), To: q.Dst}
}

// visible is the address under which the guest sees a client of a published port;
// answers to it must come back to us. That is the client's own, except where the
// guest would not send answers to the TAP: loopback and link-local addresses, and those
// of a subnet that is the guest's alone or of the guest itself; or where the server is of
// the other family. Such clients get the address that stands for theirs, or the gateway's.
func (r *Rules) visible(client netip.AddrPort, server netip.Addr) netip.AddrPort {
	a, p := client.Addr().Unmap(), &r.Plan
	var seen netip.Addr
	switch {
	case a.Is4() != server.Is4(), a.IsUnspecified(), r.linkLocal(a), p.Inside(a):
	case a.IsLoopback():
		seen = p.LoopbackFor(server)
	case p.IsGuest(a), a == server:
		seen = p.HostAddrFor(server)
	case len(p.HostAddrs) > 0 && a == r.hostAddr(a.Is6()):
		seen = cmp.Or(p.HostAddrFor(server), a)
	default:
		seen = a
	}
	return netip.AddrPortFrom(cmp.Or(seen, p.GatewayFor(server)), client.Port())
}

// linkLocal reports whether a is an address that the guest would wrongly take to be on its
// link. A guest whose subnets lie outside is on the host's link, as far as IPv4 can tell.
func (r *Rules) linkLocal(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() && (a.Is6() || !r.Plan.Outside)
}

// decideSplice says how a client of the host's loopback is connected within the guest's
// kernel: from the guest's own address to itself, with a port that the kernel chooses.
func (r *Rules) decideSplice(q *Request) Decision {
	if r.off(q.Proto) {
		return Decision{Action: Refuse, Errno: unix.ECONNREFUSED}
	}
	own := q.Dst.Addr()
	if r.LoopbackToLoopback {
		own = loopbackLike(own)
	}
	return Decision{
		Action: Allow, Inside: true,
		From: netip.AddrPortFrom(own, 0), To: netip.AddrPortFrom(own, q.Dst.Port()),
	}
}
