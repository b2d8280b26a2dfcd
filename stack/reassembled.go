package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvisor "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// handleReassembled is gVisor's handler for UDP and ICMP: packets that went
// its way because they came in fragments. They are flattened and take the same
// way as all others from here on.
func (s *Stack) handleReassembled(proto uint8, pkt *gvisor.PacketBuffer) bool {
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
	if p.validTransport(false) {
		s.dispatch(&p, nil)
	}
	return true
}

// addresses returns the source and destination of a packet that leaves.
func addresses(pkt *gvisor.PacketBuffer) (src, dst netip.Addr) {
	h := pkt.NetworkHeader().Slice() // pkt.Network() would allocate
	if pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		ip := header.IPv4(h)
		return addrFrom(ip.SourceAddress()), addrFrom(ip.DestinationAddress())
	}
	ip := header.IPv6(h)
	return addrFrom(ip.SourceAddress()), addrFrom(ip.DestinationAddress())
}
