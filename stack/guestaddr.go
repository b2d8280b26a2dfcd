package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing"
)

// guestAddr6 is what is known of the guest's own IPv6 address.
//
// A packet's source says little: it may be forwarded from a container inside, or be
// another interface's that is bridged onto the TAP. Neighbour discovery is not
// forwarded (its hop limit is 255), and an interface speaks there of addresses that
// it has.
type guestAddr6 struct {
	fixed netip.Addr // set by the Config: nothing is learned
	own   netip.Addr // last claimed from the TAP's own Ethernet address
}

// GuestAddr6 is the guest's own IPv6 address, not valid without IPv6. It is the
// one of the Config; or else the address of the plan's prefix that the TAP's own
// interface has last claimed in neighbour discovery; or while it has claimed none,
// the one that SLAAC makes of its Ethernet address (RFC 4291 appendix A). Shard's
// thread only.
func (s *Stack) GuestAddr6() netip.Addr {
	if !s.plan.IPv6() {
		return netip.Addr{}
	}
	if s.guest6.fixed.IsValid() {
		return s.guest6.fixed
	}
	if s.guest6.own.IsValid() {
		return s.guest6.own
	}
	return addressing.SLAAC(s.plan.Prefix6, unpack(s.neigh.self.Load()))
}

// learnGuest6 notes which address the sender of a valid message of neighbour
// discovery claims: the target of an advertisement or of duplicate address
// detection, the source of any other solicitation.
func (s *Stack) learnGuest6(p *Packet, h header.ICMPv6) {
	if pack([6]byte(s.in.eth[6:12])) != s.neigh.self.Load() {
		return
	}
	claimed := p.Src
	switch {
	case h.Type() == header.ICMPv6NeighborAdvert && len(h) >= header.ICMPv6NeighborAdvertMinimumSize:
		claimed = addrFrom(header.NDPNeighborAdvert(h.MessageBody()).TargetAddress())
	case h.Type() == header.ICMPv6NeighborSolicit && p.Src.IsUnspecified() && len(h) >= header.ICMPv6NeighborSolicitMinimumSize:
		claimed = addrFrom(header.NDPNeighborSolicit(h.MessageBody()).TargetAddress())
	}
	if s.plan.Prefix6.Contains(claimed) && !s.plan.IsOwn(claimed) {
		s.guest6.own = claimed
	}
}
