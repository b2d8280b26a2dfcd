package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// SendBroadcastUDP sends a datagram to the guest's limited broadcast address.
func (s *Stack) SendBroadcastUDP(src netip.AddrPort, port uint16, payload []byte) {
	s.SendUDP(src, netip.AddrPortFrom(LimitedBroadcast(), port), payload)
}

// SendICMP sends an ICMP or ICMPv6 message, whose checksum is filled in.
func (s *Stack) SendICMP(src, dst netip.Addr, ttl uint8, message ...[]byte) {
	o := outgoing{src: src, dst: dst, proto: ProtoICMP, ttl: ttl, transport: message[0], sumAt: header.ICMPv6ChecksumOffset} // of either family
	if src.Is6() {
		o.proto = ProtoICMPv6
	}
	s.out.parts = append(s.out.parts[:0], message[1:]...)
	o.payload = s.out.parts
	binary.BigEndian.PutUint16(message[0][o.sumAt:], 0)
	s.out.send(&o)
}

// SendReset refuses the connection that a SYN asks for (RFC 9293, section
// 3.10.7.1: a reset that acknowledges what the SYN occupies).
func (s *Stack) SendReset(syn *SYN) {
	s.sendReset(syn.Dst, syn.Src, header.TCPFlagRst|header.TCPFlagAck, syn.next)
}

// SendAbort tells connection tracking between us and a server in the guest that an
// attempt to connect to it, not made by Dial, has ended. It is a RST of sequence
// number zero, which Linux's tracking takes for the end of any attempt
// (tcp_in_window in nf_conntrack_proto_tcp.c) and hosts ignore.
func (s *Stack) SendAbort(from, to netip.AddrPort) {
	s.sendReset(from, to, header.TCPFlagRst, 0)
}

func (s *Stack) sendReset(src, dst netip.AddrPort, flags header.TCPFlags, ack uint32) {
	var h [header.TCPMinimumSize]byte
	header.TCP(h[:]).Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: flags,
	})
	s.out.send(&outgoing{src: src.Addr(), dst: dst.Addr(), proto: ProtoTCP, ttl: DefaultTTL, transport: h[:], sumAt: header.TCPChecksumOffset})
}

// Unreachable is the reason why a packet was not delivered, which the guest is told
// by ICMP or ICMPv6.
type Unreachable int

// The reasons, with what a Linux guest makes of them.
const (
	NetUnreachable  Unreachable = iota // ENETUNREACH
	HostUnreachable                    // EHOSTUNREACH
	PortUnreachable                    // ECONNREFUSED
	Prohibited                         // EACCES (IPv6) or EHOSTUNREACH (IPv4)
	TimeExceeded                       // a hop of traceroute
)

// Types and codes of RFC 792, RFC 1812 and RFC 4443 by reason.
var (
	icmpv4Errors = [...]struct {
		typ  header.ICMPv4Type
		code header.ICMPv4Code
	}{
		NetUnreachable:  {header.ICMPv4DstUnreachable, header.ICMPv4NetUnreachable},
		HostUnreachable: {header.ICMPv4DstUnreachable, header.ICMPv4HostUnreachable},
		PortUnreachable: {header.ICMPv4DstUnreachable, header.ICMPv4PortUnreachable},
		Prohibited:      {header.ICMPv4DstUnreachable, header.ICMPv4AdminProhibited},
		TimeExceeded:    {header.ICMPv4TimeExceeded, header.ICMPv4TTLExceeded},
	}
	icmpv6Errors = [...]struct {
		typ  header.ICMPv6Type
		code header.ICMPv6Code
	}{
		NetUnreachable:  {header.ICMPv6DstUnreachable, header.ICMPv6NetworkUnreachable},
		HostUnreachable: {header.ICMPv6DstUnreachable, header.ICMPv6AddressUnreachable},
		PortUnreachable: {header.ICMPv6DstUnreachable, header.ICMPv6PortUnreachable},
		Prohibited:      {header.ICMPv6DstUnreachable, header.ICMPv6Prohibited},
		TimeExceeded:    {header.ICMPv6TimeExceeded, header.ICMPv6HopLimitExceeded},
	}
)

// Quote identifies the guest's packet that an ICMP error is about. Hosts match
// an error to a socket by these fields (RFC 792: the first 8 bytes of the
// transport header), so an error may be sent long after the packet is gone.
type Quote struct {
	Src, Dst  netip.Addr
	Proto     uint8
	Transport [8]byte
}

// UDPQuote is the quote of a datagram.
func UDPQuote(src, dst netip.AddrPort, size int) Quote {
	q := Quote{Src: src.Addr(), Dst: dst.Addr(), Proto: ProtoUDP}
	binary.BigEndian.PutUint16(q.Transport[0:], src.Port())
	binary.BigEndian.PutUint16(q.Transport[2:], dst.Port())
	binary.BigEndian.PutUint16(q.Transport[4:], uint16(min(header.UDPMinimumSize+size, 0xffff)))
	return q
}

// Quote is the quote of this packet.
func (p *Packet) Quote() Quote {
	q := Quote{Src: p.Src, Dst: p.Dst, Proto: p.Proto}
	copy(q.Transport[:], p.Head)
	return q
}

// SendUnreachable tells the guest that the quoted packet was not delivered. The
// message comes from the given router, or from the gateway if it is not valid.
func (s *Stack) SendUnreachable(router netip.Addr, why Unreachable, q *Quote) {
	if !q.Dst.IsValid() || q.Dst.IsMulticast() || q.Dst == LimitedBroadcast() {
		return // RFC 1122 section 3.2.2: never about a broadcast
	}
	if q.Src.Is6() {
		e := &icmpv6Errors[why]
		s.sendError(router, byte(e.typ), byte(e.code), 0, q)
		return
	}
	e := &icmpv4Errors[why]
	s.sendError(router, byte(e.typ), byte(e.code), 0, q)
}

// SendTooBig tells the guest the path MTU towards the quoted destination, in
// bytes (RFC 1191, RFC 8201).
func (s *Stack) SendTooBig(router netip.Addr, mtu int, q *Quote) {
	if q.Src.Is6() {
		s.sendError(router, byte(header.ICMPv6PacketTooBig), byte(header.ICMPv6UnusedCode), uint32(mtu), q)
		return
	}
	s.sendError(router, byte(header.ICMPv4DstUnreachable), byte(header.ICMPv4FragmentationNeeded), uint32(min(mtu, 0xffff)), q)
}

func (s *Stack) sendError(router netip.Addr, typ, code byte, word uint32, q *Quote) {
	if q.Src.IsUnspecified() {
		return
	}
	if !router.IsValid() || router.Is4() != q.Src.Is4() {
		router = s.gatewayFor(q.Src)
	}
	var b [header.ICMPv6ErrorHeaderSize + header.IPv6MinimumSize + len(q.Transport)]byte
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

// gatewayFor is the gateway's address from which errors to the guest address a
// come.
func (s *Stack) gatewayFor(a netip.Addr) netip.Addr {
	switch {
	case a.Is4():
		return s.plan.Gateway
	case a.IsLinkLocalUnicast():
		return s.plan.GatewayLinkLocal
	default:
		return s.plan.Gateway6
	}
}

// LimitedBroadcast is the address 255.255.255.255 (RFC 919).
func LimitedBroadcast() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

// answerEcho replies to an echo request for one of our own addresses, with a TTL of
// 255, as slirp4netns does.
func (s *Stack) answerEcho(p *Packet) {
	s.echo = append(s.echo[:0], p.Head...)
	reply := s.echo
	if p.Proto == ProtoICMP {
		header.ICMPv4(reply).SetType(header.ICMPv4EchoReply)
	} else {
		header.ICMPv6(reply).SetType(header.ICMPv6EchoReply)
	}
	s.SendICMP(p.Dst, p.Src, 255, reply, p.Tail)
}
