package policy

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	portDNS         = 53
	portDNSTLS      = 853 // RFC 7858, and over QUIC RFC 9250
	portDHCPServer  = 67
	portDHCP6Server = 547
)

// decideOut decides about what the guest sends.
func (r *Rules) decideOut(q *Request) Decision {
	addr, p := q.Dst.Addr(), &r.Plan
	if d := r.decideDHCP(q); d.Action != Drop {
		return d
	}
	switch {
	case r.off(q.Proto):
		return Decision{}
	case p.IsDNS(addr) && q.Dst.Port() == portDNS && !r.DisableDNS:
		return Decision{Action: ServeDNS}
	case p.IsDNS(addr) && q.Dst.Port() == portDNSTLS && !r.DisableDNS && p.Outside:
		return r.decideNameServer(q)
	case p.IsHostLoopback(addr):
		return r.decideLoopback(q.Dst)
	case p.IsHostAddr(addr):
		return r.decideHostAddr(q.Dst)
	case p.IsDNS(addr) && !p.Outside:
		return r.decideDNS(q)
	case p.IsOwn(addr):
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	case p.Outside && reachesGroup(q):
		// The host's neighbours are the guest's, as in pasta.
		return Decision{Action: Allow, To: q.Dst}
	case !Routable(addr), p.Inside(addr):
		return Decision{}
	}
	return Decision{Action: Allow, To: q.Dst}
}

// reachesGroup reports whether a datagram goes to several machines. Requests for a lease do
// not: the guest is no host of their network.
func reachesGroup(q *Request) bool {
	addr, port := q.Dst.Addr(), q.Dst.Port()
	return q.Proto == unix.IPPROTO_UDP && (addr.Is4() && addr.IsMulticast() || leavesMachine(addr) || addr == limitedBroadcast()) &&
		port != portDHCPServer && port != portDHCP6Server
}

// decideDHCP says whether our DHCP servers answer; for all else it returns Drop.
func (r *Rules) decideDHCP(q *Request) Decision {
	addr, port := q.Dst.Addr(), q.Dst.Port()
	switch {
	case q.Proto != unix.IPPROTO_UDP:
	case port == portDHCPServer && !r.DisableDHCP && (addr == limitedBroadcast() || addr.Is4() && r.Plan.IsGateway(addr)):
		return Decision{Action: ServeDHCP}
	case port == portDHCP6Server && !r.DisableDHCP6 && (addr == allDHCPServers() || addr.Is6() && r.Plan.IsGateway(addr)):
		return Decision{Action: ServeDHCP6}
	}
	return Decision{}
}

// off reports whether a protocol is not served at all.
func (r *Rules) off(proto uint8) bool {
	switch proto {
	case unix.IPPROTO_TCP:
		return r.DisableTCP
	case unix.IPPROTO_UDP:
		return r.DisableUDP
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return r.DisableICMP
	}
	return false
}

// decideDNS decides about everything but DNS at an address that is the resolver's alone.
func (r *Rules) decideDNS(q *Request) Decision {
	switch {
	case r.DisableDNS && q.Dst.Addr().IsLinkLocalUnicast():
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	case r.DisableDNS:
		return Decision{Action: Allow, To: q.Dst}
	case q.Proto == unix.IPPROTO_UDP:
		return Decision{Action: Refuse, Errno: unix.ECONNREFUSED}
	default:
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	}
}

// decideNameServer leads to the host's first nameserver, over TCP of either family. For
// datagrams, whose replies keep their family, it must be of the guest's.
func (r *Rules) decideNameServer(q *Request) Decision {
	var to netip.Addr
	if r.NameServer != nil {
		to = r.NameServer()
	}
	if !to.IsValid() || q.Proto != unix.IPPROTO_TCP && to.Is4() != q.Dst.Addr().Is4() {
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	}
	return Decision{Action: Allow, To: netip.AddrPortFrom(to, q.Dst.Port())}
}

// decideLoopback decides about addresses that stand for the host's loopback.
func (r *Rules) decideLoopback(dst netip.AddrPort) Decision {
	if r.DisableHostLoopback {
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	}
	return Decision{Action: Allow, To: netip.AddrPortFrom(loopbackLike(dst.Addr()), dst.Port())}
}

// leavesMachine reports whether a datagram for an IPv6 multicast address may leave its sender:
// its scope is neither reserved (0) nor interface-local (RFC 4291 section 2.7).
func leavesMachine(a netip.Addr) bool {
	return a.Is6() && a.IsMulticast() && a.As16()[1]&0xf > 1
}

// loopbackLike is the loopback address of a's family.
func loopbackLike(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// decideHostAddr decides about addresses that stand for the host's main address.
func (r *Rules) decideHostAddr(dst netip.AddrPort) Decision {
	a := r.hostAddr(dst.Addr().Is6())
	if !Routable(a) || a.Is6() != dst.Addr().Is6() {
		return Decision{Action: Refuse, Errno: unix.ENETUNREACH}
	}
	return Decision{Action: Allow, To: netip.AddrPortFrom(a, dst.Port())}
}

func (r *Rules) hostAddr(v6 bool) netip.Addr {
	if r.HostAddr == nil {
		return netip.Addr{}
	}
	return r.HostAddr(v6)
}

// Routable reports whether a host socket may connect to addr. The kernel treats all other
// addresses as local or multicast: connecting to 0.0.0.0 or :: reaches loopback, and
// IPv4-mapped and IPv4-compatible addresses hide IPv4 ones.
func Routable(addr netip.Addr) bool {
	switch {
	case !addr.IsValid(), addr.IsUnspecified(), addr.IsLoopback(), addr.IsMulticast(), addr.Is4In6():
		return false
	case addr.Is4():
		return addr.As4()[0] != 0 && addr != limitedBroadcast()
	default:
		// Link-local addresses need a scope that the guest cannot name.
		return !addr.IsLinkLocalUnicast() && !v4Compatible(addr)
	}
}

// v4Compatible reports whether addr is in ::/96 (RFC 4291 section 2.5.5.1).
func v4Compatible(addr netip.Addr) bool {
	b := addr.As16()
	return [12]byte(b[:12]) == [12]byte{}
}

func limitedBroadcast() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

// allDHCPServers is All_DHCP_Relay_Agents_and_Servers, RFC 8415 section 7.1.
func allDHCPServers() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 13: 0x01, 15: 0x02})
}
