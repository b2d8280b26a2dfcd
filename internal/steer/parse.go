package steer

import (
	"encoding/binary"

	"epiphyte/stack"
)

// Ethernet types and lengths of what is looked into.
const (
	ethernetLen = 14
	typeIPv4    = 0x0800
	typeIPv6    = 0x86dd
	ipv4Len     = 20 // without options
	ipv6Len     = 40
	portsLen    = 4 // at the beginning of TCP's header and of UDP's
	icmpLen     = 8 // before the quoted packet
)

// IPv6 extension headers, RFC 8200 section 4. Of a chain longer than the stack
// looks at the rest is not looked at here either.
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extDestination = 60
	maxExtensions  = 8
)

// look finds out the flow, zero before, of a packet from the guest, given the
// Ethernet type and what begins with the IP header. Lengths are believed as far as
// there are bytes.
func (f *flow) look(etherType uint16, ip []byte) {
	var transport []byte
	var proto uint8
	switch etherType {
	case typeIPv4:
		proto, transport = f.ipv4(ip)
	case typeIPv6:
		proto, transport = f.ipv6(ip)
	}
	switch {
	case f.part == later:
	case proto == stack.ProtoTCP || proto == stack.ProtoUDP:
		if len(transport) >= portsLen {
			f.proto = proto
			f.guest.port = binary.BigEndian.Uint16(transport)
			f.outside.port = binary.BigEndian.Uint16(transport[2:])
		}
	case f.part == whole && quotes(proto, transport):
		*f = flow{}
		f.look(etherType, transport[icmpLen:])
		f.turn()
	}
}

// quotes reports whether an ICMP message is an error that the stack hands to the
// TCP connection that it quotes.
func quotes(proto uint8, icmp []byte) bool {
	switch {
	case proto == stack.ProtoICMP:
		return len(icmp) >= icmpLen+ipv4Len && icmp[0] == 3 && icmp[icmpLen+9] == stack.ProtoTCP
	case proto == stack.ProtoICMPv6:
		return len(icmp) >= icmpLen+ipv6Len && (icmp[0] == 1 || icmp[0] == 2) && icmp[icmpLen+6] == stack.ProtoTCP
	}
	return false
}

// turn makes it the flow of a packet that we have sent.
func (f *flow) turn() {
	if f.part != whole {
		*f = flow{}
	}
	f.guest, f.outside = f.outside, f.guest
}

func (f *flow) ipv4(ip []byte) (proto uint8, transport []byte) {
	if len(ip) < ipv4Len {
		return 0, nil
	}
	copy(f.guest.addr[:12], v4Mapped[:])
	copy(f.guest.addr[12:], ip[12:16])
	copy(f.outside.addr[:12], v4Mapped[:])
	copy(f.outside.addr[12:], ip[16:20])
	f.fragment(uint32(binary.BigEndian.Uint16(ip[4:])), binary.BigEndian.Uint16(ip[6:])&0x1fff, ip[6]&0x20 != 0)
	size := int(ip[0]&0xf) * 4
	if size < ipv4Len || size > len(ip) {
		return 0, nil
	}
	return ip[9], ip[size:]
}

func (f *flow) ipv6(ip []byte) (proto uint8, transport []byte) {
	if len(ip) < ipv6Len {
		return 0, nil
	}
	copy(f.guest.addr[:], ip[8:24])
	copy(f.outside.addr[:], ip[24:40])
	next, rest := ip[6], ip[ipv6Len:]
	for range maxExtensions + 1 {
		size := 8
		switch next {
		case extFragment:
			if len(rest) < size {
				return 0, nil
			}
			at := binary.BigEndian.Uint16(rest[2:])
			f.fragment(binary.BigEndian.Uint32(rest[4:]), at>>3, at&1 != 0)
			if f.part == later {
				return 0, nil
			}
		case extHopByHop, extRouting, extDestination:
			if len(rest) < size {
				return 0, nil
			}
			size = 8 * (int(rest[1]) + 1)
		default:
			return next, rest
		}
		if len(rest) < size {
			return 0, nil
		}
		next, rest = rest[0], rest[size:]
	}
	return 0, nil
}

// fragment notes which part of its datagram the packet is.
func (f *flow) fragment(id uint32, offset uint16, more bool) {
	switch {
	case offset > 0:
		f.part, f.id = later, id
	case more:
		f.part, f.id = first, id
	}
}
