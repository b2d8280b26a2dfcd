package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// IP protocol numbers.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// Packet is one packet from the guest, checked before a Handler gets it. It and
// the bytes it points to are valid during the Handler's call only; the head of one
// marked Fresh until the next Handler.Flush.
type Packet struct {
	Src, Dst netip.Addr
	Proto    uint8
	TTL      uint8
	// Head starts with the transport header, which lies in it entirely. Tail
	// holds what did not fit behind it and is empty for packets up to about
	// 2 kB.
	Head, Tail []byte
	// SegmentSize is not zero for a UDP super-datagram: the payload is to be
	// cut into datagrams of this many bytes, the last one may be shorter.
	SegmentSize uint16
	// Fresh reports that Head is stable until the Handler's next Flush.
	Fresh bool
	// Fragment is zero in what a Handler gets: fragments are reassembled before.
	Fragment Fragment

	ip []byte // the packet from its IP header on, as far as it lies in the head
}

// Fragment says which part of a datagram a packet is. Its zero value is that of a
// packet that was not fragmented.
type Fragment struct {
	Present bool   // it is a part, or all with an IPv6 fragment header (RFC 6946)
	More    bool   // it is not the last part
	Offset  uint16 // in units of 8 bytes
	ID      uint32
}

// SrcPort reads the source port of a TCP or UDP packet.
func (p *Packet) SrcPort() uint16 { return binary.BigEndian.Uint16(p.Head) }

// DstPort is the destination port of a TCP or UDP packet.
func (p *Packet) DstPort() uint16 { return binary.BigEndian.Uint16(p.Head[2:]) }

// HeaderLen is the size of what is before Head: the IP header with its options or
// extension headers, in bytes.
func (p *Packet) HeaderLen() int { return len(p.ip) - len(p.Head) }

// IsEchoRequest reports whether p is a ping, of either family. Head must not be
// empty.
func (p *Packet) IsEchoRequest() bool {
	return p.Proto == ProtoICMP && header.ICMPv4(p.Head).Type() == header.ICMPv4Echo ||
		p.Proto == ProtoICMPv6 && header.ICMPv6(p.Head).Type() == header.ICMPv6EchoRequest
}

// Parse reads the headers of a packet up to the transport header, and reports
// whether it is well-formed so far. head begins with the IP header and tail is the
// rest; Ethernet's padding is cut off. What a later fragment carries is its Head.
// Checksums and transport headers are not looked at, so Head may be of any length.
func (p *Packet) Parse(etherType tcpip.NetworkProtocolNumber, head, tail []byte) bool {
	switch etherType {
	case header.IPv4ProtocolNumber:
		return p.parseIPv4(head, tail)
	case header.IPv6ProtocolNumber:
		return p.parseIPv6(head, tail)
	}
	return false
}

func (p *Packet) parseIPv4(head, tail []byte) bool {
	h := header.IPv4(head)
	if !h.IsValid(len(head)+len(tail)) || int(h.HeaderLength()) > len(head) {
		return false
	}
	p.Src = netip.AddrFrom4([4]byte(h.SourceAddressSlice()))
	p.Dst = netip.AddrFrom4([4]byte(h.DestinationAddressSlice()))
	p.Proto, p.TTL = h.Protocol(), h.TTL()
	if h.More() || h.FragmentOffset() > 0 {
		p.Fragment = Fragment{Present: true, More: h.More(), Offset: h.FragmentOffset() / 8, ID: uint32(h.ID())}
	}
	p.ip, p.Tail = truncate(head, tail, int(h.TotalLength()))
	p.Head = p.ip[h.HeaderLength():]
	return true
}

func (p *Packet) parseIPv6(head, tail []byte) bool {
	h := header.IPv6(head)
	if !h.IsValid(len(head) + len(tail)) {
		return false
	}
	p.Src = netip.AddrFrom16([16]byte(h.SourceAddressSlice()))
	p.Dst = netip.AddrFrom16([16]byte(h.DestinationAddressSlice()))
	p.TTL = h.HopLimit()
	p.ip, p.Tail = truncate(head, tail, header.IPv6MinimumSize+int(h.PayloadLength()))
	return p.skipExtensions(h.NextHeader(), p.ip[header.IPv6MinimumSize:])
}

const (
	// maxExtensions is more than the headers that RFC 8200 section 4.1 recommends.
	maxExtensions = 8
	// minExtension is the smallest extension header, in bytes; their lengths count
	// in units of it (RFC 8200 section 4).
	minExtension = 8
)

// skipExtensions finds the transport header behind extension headers, which
// do not matter here. It is done here and not in gVisor because there, in
// promiscuous mode, neighbour discovery answers for every address.
func (p *Packet) skipExtensions(next uint8, rest []byte) bool {
	for range maxExtensions + 1 {
		size := minExtension
		switch id := header.IPv6ExtensionHeaderIdentifier(next); id {
		case ProtoTCP, ProtoUDP, ProtoICMPv6:
			p.Proto, p.Head = next, rest
			return true
		case header.IPv6FragmentExtHdrIdentifier:
			f := header.IPv6Fragment(rest)
			if !f.IsValid() || p.Fragment.Present { // there must be no second one
				return false
			}
			p.Fragment = Fragment{Present: true, More: f.More(), Offset: f.FragmentOffset(), ID: f.ID()}
			if f.FragmentOffset() > 0 {
				p.Proto, p.Head = f.NextHeader(), f.Payload()
				return true
			}
		case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6RoutingExtHdrIdentifier, header.IPv6DestinationOptionsExtHdrIdentifier:
			if len(rest) < size {
				return false
			}
			if id == header.IPv6RoutingExtHdrIdentifier && rest[3] != 0 { // segments left: not ours to route
				return false
			}
			size += minExtension * int(rest[1])
		default:
			return false
		}
		if size > len(rest) {
			return false
		}
		next, rest = rest[0], rest[size:]
	}
	return false
}

// truncate cuts head+tail to total bytes.
func truncate(head, tail []byte, total int) ([]byte, []byte) {
	if total <= len(head) {
		return head[:total], nil
	}
	return head, tail[:total-len(head)]
}

// validHeader verifies the checksum of the IP header; IPv6's has none.
func (p *Packet) validHeader() bool {
	return p.Src.Is6() || header.IPv4(p.ip).IsChecksumValid()
}

// QuotedTCP returns the endpoints of the connection whose segment, sent to the
// guest, p quotes, and whether p is such an ICMP error: one that ends a connection
// or tells of a smaller MTU. p must not be a fragment.
func (p *Packet) QuotedTCP() (guest, outside netip.AddrPort, ok bool) {
	if len(p.Head) < header.ICMPv4MinimumSize { // of either family
		return guest, outside, false
	}
	quote := p.Head[header.ICMPv4MinimumSize:]
	var ports header.TCP
	var src, dst netip.Addr
	switch {
	case p.Proto == ProtoICMP && header.ICMPv4(p.Head).Type() == header.ICMPv4DstUnreachable:
		h := header.IPv4(quote)
		if len(h) < header.IPv4MinimumSize || h.Protocol() != ProtoTCP || h.FragmentOffset() > 0 || len(h) < int(h.HeaderLength()) {
			return guest, outside, false
		}
		src, dst = netip.AddrFrom4([4]byte(h.SourceAddressSlice())), netip.AddrFrom4([4]byte(h.DestinationAddressSlice()))
		ports = header.TCP(quote[h.HeaderLength():])
	case p.Proto == ProtoICMPv6 && (header.ICMPv6(p.Head).Type() == header.ICMPv6DstUnreachable || header.ICMPv6(p.Head).Type() == header.ICMPv6PacketTooBig):
		h := header.IPv6(quote)
		if len(h) < header.IPv6MinimumSize || h.NextHeader() != ProtoTCP {
			return guest, outside, false
		}
		src, dst = netip.AddrFrom16([16]byte(h.SourceAddressSlice())), netip.AddrFrom16([16]byte(h.DestinationAddressSlice()))
		ports = header.TCP(quote[header.IPv6MinimumSize:])
	}
	if len(ports) < 4 {
		return guest, outside, false
	}
	return netip.AddrPortFrom(dst, ports.DestinationPort()), netip.AddrPortFrom(src, ports.SourcePort()), true
}

func (p *Packet) quotesTCP() bool {
	_, _, ok := p.QuotedTCP()
	return ok
}

// isError reports whether p is an ICMP error, about which there must be no other
// (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
func (p *Packet) isError() bool {
	switch p.Proto {
	case ProtoICMP:
		switch header.ICMPv4(p.Head).Type() {
		case header.ICMPv4DstUnreachable, header.ICMPv4SrcQuench, header.ICMPv4Redirect, header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem:
			return true
		}
	case ProtoICMPv6:
		return header.ICMPv6(p.Head).Type() < 128 // RFC 4443 section 2.1
	}
	return false
}

// validTransport checks length and, unless the device vouches for it, checksum
// of the transport packet. A UDP length shorter than the packet cuts it.
func (p *Packet) validTransport(checked bool) bool {
	size := len(p.Head) + len(p.Tail)
	switch p.Proto {
	case ProtoTCP:
		if len(p.Head) < header.TCPMinimumSize {
			return false
		}
		off := int(header.TCP(p.Head).DataOffset())
		if off < header.TCPMinimumSize || off > len(p.Head) {
			return false
		}
	case ProtoUDP:
		if len(p.Head) < header.UDPMinimumSize {
			return false
		}
		length := int(header.UDP(p.Head).Length())
		if p.SegmentSize == 0 {
			if length < header.UDPMinimumSize || length > size {
				return false
			}
			p.Head, p.Tail = truncate(p.Head, p.Tail, length)
		}
		if p.Head[6] == 0 && p.Head[7] == 0 {
			return p.Src.Is4() // RFC 8200 section 8.1: a zero checksum is not valid over IPv6
		}
	case ProtoICMP, ProtoICMPv6:
		if len(p.Head) < header.ICMPv4MinimumSize || (p.Proto == ProtoICMP) != p.Src.Is4() {
			return false
		}
	default:
		return false
	}
	return checked || p.checksumOK()
}

// checksumOK verifies the transport checksum over head and tail.
func (p *Packet) checksumOK() bool {
	var sum uint16
	if p.Proto != ProtoICMP {
		sum = pseudoHeader(p.Src, p.Dst, p.Proto, len(p.Head)+len(p.Tail))
	}
	var c checksum.Checksumer
	c.Add(p.Head)
	c.Add(p.Tail)
	return checksum.Combine(sum, c.Checksum()) == 0xffff
}

// pseudoHeader is the unfolded checksum of the pseudo header of either family.
func pseudoHeader(src, dst netip.Addr, proto uint8, length int) uint16 {
	var b [40]byte
	var n int
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		n = copy(b[:], s[:])
		n += copy(b[n:], d[:])
	} else {
		s, d := src.As16(), dst.As16()
		n = copy(b[:], s[:])
		n += copy(b[n:], d[:])
	}
	binary.BigEndian.PutUint32(b[n:], uint32(length))
	b[n+7] = proto
	return checksum.Checksum(b[:n+8], 0)
}
