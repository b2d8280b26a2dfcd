package stack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// ICMPError is an ICMP or ICMPv6 message which says that a packet was not delivered,
// in the numbers of the packet's own family.
type ICMPError struct {
	Type, Code uint8
	// Pointer is the offset in bytes that a parameter problem is about.
	Pointer uint32
}

// Types and codes of RFC 792, RFC 1812 and RFC 4443.
const (
	unreachable4  = uint8(header.ICMPv4DstUnreachable)
	unreachable6  = uint8(header.ICMPv6DstUnreachable)
	exceeded4     = uint8(header.ICMPv4TimeExceeded)
	exceeded6     = uint8(header.ICMPv6TimeExceeded)
	badParameter4 = uint8(header.ICMPv4ParamProblem)
	badParameter6 = uint8(header.ICMPv6ParamProblem)
)

// perFamily is one error in both families. A zero type: there is none.
type perFamily struct{ v4, v6 ICMPError }

func (p *perFamily) of(v6 bool) ICMPError {
	if v6 {
		return p.v6
	}
	return p.v4
}

var (
	noNetwork  = perFamily{ICMPError{Type: unreachable4, Code: 0}, ICMPError{Type: unreachable6, Code: 0}}
	noHost     = perFamily{ICMPError{Type: unreachable4, Code: 1}, ICMPError{Type: unreachable6, Code: 3}}
	noPort     = perFamily{ICMPError{Type: unreachable4, Code: 3}, ICMPError{Type: unreachable6, Code: 4}}
	prohibited = perFamily{ICMPError{Type: unreachable4, Code: 13}, ICMPError{Type: unreachable6, Code: 1}}
	exceeded   = perFamily{ICMPError{Type: exceeded4}, ICMPError{Type: exceeded6}}
)

// icmpErrors holds, by errno, the error that a Linux guest turns into that errno:
// icmp_err_convert in net/ipv4/icmp.c, icmpv6_err_convert in net/ipv6/icmp.c. No
// code of IPv4 becomes EACCES; code 13 becomes EHOSTUNREACH.
var icmpErrors = [...]perFamily{
	unix.ENETUNREACH:  noNetwork,
	unix.EHOSTUNREACH: noHost,
	unix.ECONNREFUSED: noPort,
	unix.EACCES:       prohibited,
	unix.ENOPROTOOPT:  {v4: ICMPError{Type: unreachable4, Code: 2}, v6: noHost.v6},
	unix.EOPNOTSUPP:   {v4: ICMPError{Type: unreachable4, Code: 5}, v6: noHost.v6},
	unix.EHOSTDOWN:    {v4: ICMPError{Type: unreachable4, Code: 7}, v6: noHost.v6},
	unix.ENONET:       {v4: ICMPError{Type: unreachable4, Code: 8}, v6: noHost.v6},
	unix.EPROTO:       {ICMPError{Type: badParameter4}, ICMPError{Type: badParameter6}},

	// What the host's kernel says by itself.
	unix.EPERM:         prohibited, // a firewall of the host
	unix.EINVAL:        noHost,     // a blackhole route
	unix.ETIMEDOUT:     noHost,
	unix.ENETDOWN:      noNetwork,
	unix.EAFNOSUPPORT:  noNetwork,
	unix.EADDRNOTAVAIL: noNetwork, // no address to send from, or no port of it towards this peer

	// We or the host have run out of something: the peer did not refuse.
	unix.EMFILE:     noHost,
	unix.ENFILE:     noHost,
	unix.ENOBUFS:    noHost,
	unix.ENOMEM:     noHost,
	unix.ENOSPC:     noHost, // epoll(7), max_user_watches
	unix.EAGAIN:     noHost, // connect(2): no local port is left
	unix.EADDRINUSE: noHost, // bind(2): the same
}

// ICMPErrorFor returns the ICMP error that the guest turns into the errno of a host
// socket, or the nearest one, and whether there is one.
func ICMPErrorFor(errno unix.Errno, v6 bool) (ICMPError, bool) {
	if int(errno) >= len(icmpErrors) {
		return ICMPError{}, false
	}
	e := icmpErrors[errno].of(v6)
	return e, e.Type != 0
}

// Deliverable reports whether the error is of a type that says why a packet did not
// arrive. Redirects and source quenches do not, nor do types yet to be invented; a
// path MTU has SendTooBig.
func (e ICMPError) Deliverable(v6 bool) bool {
	if v6 {
		return e.Type == unreachable6 || e.Type == exceeded6 || e.Type == badParameter6
	}
	return e.Type == unreachable4 || e.Type == exceeded4 || e.Type == badParameter4
}

// SendICMPError tells the guest that the quoted packet was not delivered. The
// message comes from the given router, or from the gateway if it is not valid.
func (s *Stack) SendICMPError(router netip.Addr, e ICMPError, q *Quote) {
	if !q.Dst.IsValid() || q.Dst.IsMulticast() || q.Dst == LimitedBroadcast() {
		return // RFC 1122 section 3.2.2: never about a broadcast
	}
	word := uint32(0)
	switch {
	case q.Src.Is6() && e.Type == badParameter6:
		word = e.Pointer
	case q.Src.Is4() && e.Type == badParameter4:
		word = e.Pointer << 24
	}
	s.sendError(router, e.Type, e.Code, word, q)
}

// SendTooBig tells the guest the path MTU towards the quoted destination, in
// bytes (RFC 1191, RFC 8201).
func (s *Stack) SendTooBig(router netip.Addr, mtu int, q *Quote) {
	if q.Src.Is6() {
		s.sendError(router, byte(header.ICMPv6PacketTooBig), byte(header.ICMPv6UnusedCode), uint32(mtu), q)
		return
	}
	s.sendError(router, unreachable4, byte(header.ICMPv4FragmentationNeeded), uint32(min(mtu, 0xffff)), q)
}

// sendTimeExceeded tells the guest that the packet ends at our hop.
func (s *Stack) sendTimeExceeded(p *Packet) {
	q := p.Quote()
	s.SendICMPError(netip.Addr{}, exceeded.of(q.Src.Is6()), &q)
}

func (s *Stack) sendError(router netip.Addr, typ, code byte, word uint32, q *Quote) {
	if q.Src.IsUnspecified() {
		return
	}
	if !router.IsValid() || router.Is4() != q.Src.Is4() {
		router = s.plan.GatewayFor(q.Src)
	}
	b := s.out.told[:]
	b[0], b[1] = typ, code
	binary.BigEndian.PutUint32(b[4:], word)
	n := header.ICMPv6ErrorHeaderSize // of either family
	if q.Src.Is4() {
		putIPv4(b[n:n+header.IPv4MinimumSize], q.Src, q.Dst, q.Proto, 1, len(q.Transport), header.IPv4Fields{})
		n += header.IPv4MinimumSize
	} else {
		putIPv6(b[n:n+header.IPv6MinimumSize], q.Src, q.Dst, q.Proto, 1, len(q.Transport), nil)
		n += header.IPv6MinimumSize
	}
	n += copy(b[n:], q.Transport[:])
	s.SendICMP(router, q.Src, DefaultTTL, b[:n])
}
