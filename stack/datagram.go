package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// SendUDP sends a datagram to the guest. The payload may come in parts, at most
// 65507 bytes in all over IPv4; larger ones than the MTU are fragmented. Shard's
// thread only, as all Send functions.
func (s *Stack) SendUDP(src, dst netip.AddrPort, payload ...[]byte) {
	if size := sizeOf(payload); size <= s.out.largest(src.Addr()) {
		s.out.sendUDP(src, dst, virtioHdr{}, size, payload)
	}
}

// SendUDPs sends datagrams of segment bytes each, the last one perhaps less.
// Each part is a whole number of them, but for the last part.
//
// As one super-datagram they pass the device, and the guest's network up to
// the socket, at the price of one. That takes a device with USO, datagrams that
// need no fragments, and a total that IP's length field can express; otherwise they
// are sent one by one.
func (s *Stack) SendUDPs(src, dst netip.AddrPort, segment int, payload ...[]byte) {
	size := sizeOf(payload)
	if size <= segment {
		s.SendUDP(src, dst, payload...)
		return
	}
	if s.out.uso && segment+headersOf(src.Addr()) <= s.out.mtu && size <= s.out.largest(src.Addr()) {
		s.out.sendUDP(src, dst, virtioHdr{gsoType: virtioGSOUDPL4, gsoSize: uint16(segment)}, size, payload)
		// The guest's kernel counts on from the identification of the first.
		s.out.id += uint16((size - 1) / segment)
		return
	}
	for _, p := range payload {
		for len(p) > 0 {
			n := min(segment, len(p))
			s.SendUDP(src, dst, p[:n])
			p = p[n:]
		}
	}
}

// udpChecksum is the offset of the checksum in a UDP header (RFC 768).
const udpChecksum = 6

// largest is the most payload of a datagram between addresses like a.
func (s *sender) largest(a netip.Addr) int {
	if a.Is4() {
		return 0xffff - headersOf(a) // IPv4 counts its own header
	}
	return 0xffff - header.UDPMinimumSize
}

// headersOf is the size of the headers of a datagram between addresses like a.
func headersOf(a netip.Addr) int {
	if a.Is4() {
		return header.IPv4MinimumSize + header.UDPMinimumSize
	}
	return header.IPv6MinimumSize + header.UDPMinimumSize
}

func (s *sender) sendUDP(src, dst netip.AddrPort, gso virtioHdr, size int, payload [][]byte) {
	s.parts = append(s.parts[:0], payload...)
	h := header.UDP(s.udp[:])
	h.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(h) + size)})
	s.send(&outgoing{
		src: src.Addr(), dst: dst.Addr(), proto: ProtoUDP, ttl: DefaultTTL,
		transport: h, sumAt: udpChecksum, payload: s.parts, gso: gso,
	})
}
