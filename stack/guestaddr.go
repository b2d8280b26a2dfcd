package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing"
)

// guestAddrs are what is known of the guest's own addresses.
//
// A packet's source says little: it may be forwarded from a container inside, or be
// another interface's that is bridged onto the TAP. ARP and neighbour discovery are not
// forwarded, and an interface claims its own addresses there, or those of another
// interface of its namespace (arp_announce in the kernel's ip-sysctl.rst); so nothing is
// learned where the address is known.
type guestAddrs struct {
	fixed4, fixed6 netip.Addr // set by the Config: nothing is learned
	own4, own6     netip.Addr // last claimed from the TAP's own Ethernet address
}

// GuestAddr4 is the guest's own IPv4 address, not valid without IPv4 or where there are
// several guests. It is the one of the Config or of the plan. Where the Config has none and
// the guest's subnets lie outside, the guest may have chosen another: then it is the one
// that the TAP's own interface has last claimed in ARP. Shard's thread only.
func (s *Stack) GuestAddr4() netip.Addr {
	if s.guest.own4.IsValid() && !s.guest.fixed4.IsValid() {
		return s.guest.own4
	}
	return s.plan.Guest
}

// GuestAddr6 is the guest's own IPv6 address, not valid without IPv6. It is the
// one of the Config; or else the address of the plan's prefix, or of any where the guest's
// subnets lie outside, that the TAP's own interface has last claimed in neighbour
// discovery; or while it has claimed none, the plan's if the subnets lie outside, else the
// one that SLAAC makes of its Ethernet address (RFC 4291 appendix A). Shard's thread only.
func (s *Stack) GuestAddr6() netip.Addr {
	switch {
	case !s.plan.IPv6():
		return netip.Addr{}
	case s.guest.fixed6.IsValid():
		return s.guest.fixed6
	case s.guest.own6.IsValid():
		return s.guest.own6
	case s.plan.Outside && s.plan.Guest6.IsValid():
		return s.plan.Guest6
	case !s.plan.Prefix6.IsValid():
		return addressing.SLAAC(addressing.LinkLocal(), unpack(s.neigh.self.Load()))
	}
	return addressing.SLAAC(s.plan.Prefix6, unpack(s.neigh.self.Load()))
}

// learnGuest4 notes the address that the sender of an ARP message says it has.
func (s *Stack) learnGuest4(claimed netip.Addr, mac [6]byte) {
	if s.plan.Outside && pack(mac) == s.neigh.self.Load() && claimed.IsGlobalUnicast() && !s.plan.Holds(claimed) {
		s.guest.own4 = claimed
	}
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
	if (s.plan.Prefix6.Contains(claimed) || s.plan.Outside && claimed.IsGlobalUnicast()) && !s.plan.Holds(claimed) {
		s.guest.own6 = claimed
	}
}
