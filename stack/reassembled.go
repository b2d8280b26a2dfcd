package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// handleReassembled is gVisor's handler for packets that came in fragments: UDP, ICMP,
// and opening SYNs. They are flattened and take the same way as all others from here
// on. gVisor answers any other TCP segment that belongs to no connection, with a RST.
func (s *Stack) handleReassembled(proto uint8, pkt *gvisor.PacketBuffer) bool {
	if proto == ProtoTCP && !opens(header.TCP(pkt.TransportHeader().Slice()).Flags()) {
		return false
	}
	view := pkt.ToView()
	defer view.Release()
	whole := view.AsSlice()
	skip := len(pkt.NetworkHeader().Slice())
	if len(whole) < skip+header.UDPMinimumSize {
		return true
	}
	p := Packet{Proto: proto, Head: whole[skip:], ip: whole}
	p.Src, p.Dst = addresses(pkt)
	if p.Src.Is4() {
		p.TTL = header.IPv4(whole).TTL()
	} else {
		p.TTL = header.IPv6(whole).HopLimit()
	}
	switch {
	case !p.validTransport(false):
	case proto == ProtoTCP:
		s.openingSYN(&p, tupleOf(&p), true)
	default:
		s.dispatch(&p, nil)
	}
	return true
}

// addresses returns the source and destination of a packet.
func addresses(pkt *gvisor.PacketBuffer) (src, dst netip.Addr) {
	h := pkt.NetworkHeader().Slice() // pkt.Network() would allocate
	if pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		ip := header.IPv4(h)
		return addrFrom(ip.SourceAddress()), addrFrom(ip.DestinationAddress())
	}
	ip := header.IPv6(h)
	return addrFrom(ip.SourceAddress()), addrFrom(ip.DestinationAddress())
}
