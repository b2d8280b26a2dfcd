package policy

import "net/netip"

// decideReply says under which address the guest sees a host-side sender, and
// whether it may see it at all. It is the inverse of decideOut: what comes from
// the host's loopback comes from the gateway, and only where the guest may reach
// host loopback in the first place.
func (r *Rules) decideReply(q *Request) Decision {
	guest := q.Dst.Addr()
	a, ok := r.seenAs(q.Src.Addr())
	if guest.Is6() && guest.IsLinkLocalUnicast() && a == r.Plan.Gateway6 {
		a = r.Plan.GatewayLinkLocal // whom a guest asks from a link-local address
	}
	if !ok || a.Is4() != guest.Is4() {
		return Decision{}
	}
	return Decision{Action: Allow, From: netip.AddrPortFrom(a, q.Src.Port()), To: q.Dst}
}

func (r *Rules) seenAs(src netip.Addr) (netip.Addr, bool) {
	src = src.Unmap().WithZone("")
	if !src.IsLoopback() {
		// Senders outside may not spoof the addresses of the gateway or of DNS.
		own := r.Plan.IsGateway(src) || r.Plan.IsDNS(src) && (!r.DisableDNS || src.IsLinkLocalUnicast())
		return src, src.IsValid() && !src.IsUnspecified() && !own
	}
	if r.DisableHostLoopback {
		return netip.Addr{}, false
	}
	if src.Is4() {
		return r.Plan.Gateway, true
	}
	return r.Plan.Gateway6, r.Plan.IPv6()
}

// visible is the address under which the guest sees a client of a published port,
// by which its answers have to find the way back to us. That is the client's own,
// except where the guest would not send answers to the TAP: loopback and
// link-local addresses, and those of the guest's own subnet or of the guest
// itself; or where the server is of the other family. Such clients are the gateway.
func (r *Rules) visible(client netip.AddrPort, server netip.Addr) netip.AddrPort {
	a := client.Addr()
	p := &r.Plan
	if a.Is4() == server.Is4() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() &&
		!p.Prefix.Contains(a) && !(p.IPv6() && p.Prefix6.Contains(a)) {
		return client
	}
	if server.Is4() {
		return netip.AddrPortFrom(p.Gateway, client.Port())
	}
	return netip.AddrPortFrom(p.Gateway6, client.Port())
}

// decideSplice says how a client of the host's loopback is connected within the guest's
// kernel: from the guest's own address to itself, with a port that the kernel chooses.
func (r *Rules) decideSplice(q *Request) Decision {
	own := q.Dst.Addr()
	if r.LoopbackToLoopback {
		own = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if q.Dst.Addr().Is6() {
			own = netip.IPv6Loopback()
		}
	}
	return Decision{
		Action: Allow, Inside: true,
		From: netip.AddrPortFrom(own, 0), To: netip.AddrPortFrom(own, q.Dst.Port()),
	}
}
