package stack

import (
	"encoding/binary"
	"net/netip"

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

// Packet is one checked transport packet from the guest. It and the bytes it
// points to are valid during the Handler's call only; the first head (see
// Handler.Flush) somewhat longer.
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

	ip []byte // the packet from its IP header on, as far as it lies in the head
}

// SrcPort and DstPort read the ports of a TCP or UDP packet.
func (p *Packet) SrcPort() uint16 { return binary.BigEndian.Uint16(p.Head) }

// DstPort is the destination port of a TCP or UDP packet.
func (p *Packet) DstPort() uint16 { return binary.BigEndian.Uint16(p.Head[2:]) }

// verdict says what becomes of a frame after parsing.
type verdict int

const (
	drop     verdict = iota
	take             // p is filled
	delegate         // well-formed enough, but gVisor's: fragments
)

// parseIPv4 checks an IPv4 packet whose first bytes are head and whose rest is
// tail. Ethernet padding is cut off.
func (p *Packet) parseIPv4(head, tail []byte) verdict {
	if len(head) < header.IPv4MinimumSize {
		return drop
	}
	h := header.IPv4(head)
	hl := int(h.HeaderLength())
	total := int(h.TotalLength())
	if head[0]>>4 != 4 || hl < header.IPv4MinimumSize || hl > len(head) || total < hl || total > len(head)+len(tail) {
		return drop
	}
	if ^checksum.Checksum(head[:hl], 0) != 0 {
		return drop
	}
	p.Src = netip.AddrFrom4([4]byte(head[12:16]))
	p.Dst = netip.AddrFrom4([4]byte(head[16:20]))
	p.Proto = h.Protocol()
	p.TTL = h.TTL()
	if h.More() || h.FragmentOffset() != 0 {
		return delegate
	}
	head, tail = truncate(head, tail, total)
	p.ip, p.Head, p.Tail = head, head[hl:], tail
	return take
}

// parseIPv6 checks an IPv6 packet in the same way.
func (p *Packet) parseIPv6(head, tail []byte) verdict {
	if len(head) < header.IPv6MinimumSize {
		return drop
	}
	h := header.IPv6(head)
	total := header.IPv6MinimumSize + int(h.PayloadLength())
	if head[0]>>4 != 6 || total > len(head)+len(tail) {
		return drop
	}
	p.Src = netip.AddrFrom16([16]byte(head[8:24]))
	p.Dst = netip.AddrFrom16([16]byte(head[24:40]))
	p.TTL = h.HopLimit()
	head, tail = truncate(head, tail, total)
	proto, skip, v := skipExtensions(h.NextHeader(), head)
	if v != take {
		return v
	}
	p.Proto, p.ip, p.Head, p.Tail = proto, head, head[skip:], tail
	return take
}

// IPv6 extension headers that are passed over, RFC 8200 section 4.
const (
	extHopByHop    = 0
	extRouting     = 43
	extDestination = 60
	// maxExtensions is more than RFC 8200 section 4.1 recommends the use of.
	maxExtensions = 8
)

// skipExtensions finds the transport header behind extension headers, which
// concern nobody here. It is done here and not in gVisor because there, in
// promiscuous mode, neighbour discovery answers for every address.
func skipExtensions(next uint8, head []byte) (proto uint8, skip int, v verdict) {
	skip = header.IPv6MinimumSize
	for range maxExtensions {
		switch next {
		case ProtoTCP, ProtoUDP, ProtoICMPv6:
			return next, skip, take
		case header.IPv6FragmentHeader:
			return next, skip, delegate
		case extHopByHop, extRouting, extDestination:
			if len(head) < skip+8 {
				return next, skip, drop
			}
			if next == extRouting && head[skip+3] != 0 { // segments left: not ours to route
				return next, skip, drop
			}
			size := 8 * (int(head[skip+1]) + 1)
			next = head[skip]
			if skip += size; skip > len(head) {
				return next, skip, drop
			}
		default:
			return next, skip, drop
		}
	}
	return next, skip, drop
}

// truncate cuts head+tail to total bytes.
func truncate(head, tail []byte, total int) ([]byte, []byte) {
	if total <= len(head) {
		return head[:total], nil
	}
	return head, tail[:total-len(head)]
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
