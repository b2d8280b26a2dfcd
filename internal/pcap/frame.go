package pcap

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// onWire calls each with the frames that a network card would have made of f, whose first
// f.kept bytes are b: with the bytes kept of each, and its whole size. It changes b.
func (f *frame) onWire(b []byte, each func(b []byte, size int)) {
	if f.virtio.gso == virtioGSOUDP && cutDatagrams(b, int(f.virtio.segment), each) {
		return
	}
	if f.virtio.needsChecksum && f.kept == f.size {
		fillChecksum(b, int(f.virtio.sumStart), int(f.virtio.sumOffset))
	}
	each(b, f.size)
}

// fillChecksum does what a card does by virtio 1.2, section 5.1.6.2: the field already holds
// the sum of a pseudo header. Offsets beyond the frame leave it unchanged.
func fillChecksum(b []byte, start, offset int) {
	at := start + offset
	if start > len(b) || at+2 > len(b) {
		return
	}
	sum := ^checksum.Checksum(b[start:], 0)
	if sum == 0 {
		sum = 0xffff // the same number, but for UDP 0 means no checksum
	}
	binary.BigEndian.PutUint16(b[at:], sum)
}

// cutDatagrams cuts a UDP super-datagram as the kernel does (__udp_gso_segment in
// net/ipv4/udp_offload.c). It does nothing and returns false if b is none.
func cutDatagrams(b []byte, segment int, each func(b []byte, size int)) bool {
	const eth, udpSize = header.EthernetMinimumSize, header.UDPMinimumSize
	if len(b) < eth || segment == 0 {
		return false
	}
	var ip int // bytes of the IP header
	v4 := header.Ethernet(b).Type() == header.IPv4ProtocolNumber
	if packet := b[eth:]; v4 && header.IPv4(packet).IsValid(len(packet)) {
		ip = int(header.IPv4(packet).HeaderLength())
	} else if !v4 && len(packet) >= header.IPv6MinimumSize && header.IPv6(packet).NextHeader() == uint8(header.UDPProtocolNumber) {
		ip = header.IPv6MinimumSize
	}
	heads := eth + ip + udpSize
	if ip == 0 || len(b) < heads {
		return false
	}
	payload := b[heads:]
	one := make([]byte, heads, heads+segment)
	for i := 0; len(payload) > 0; i++ {
		n := min(segment, len(payload))
		one = append(append(one[:0], b[:heads]...), payload[:n]...)
		payload = payload[n:]
		finishDatagram(one[eth:], ip, i)
		each(one, len(one))
	}
	return true
}

// finishDatagram sets lengths and checksums of the i-th datagram of several, whose IP
// header has ip bytes.
func finishDatagram(packet []byte, ip, i int) {
	udp := header.UDP(packet[ip:])
	udp.SetLength(uint16(len(udp)))
	network := header.Network(header.IPv6(packet))
	if h := header.IPv4(packet); header.IPVersion(packet) == header.IPv4Version {
		h.SetTotalLength(uint16(len(packet)))
		h.SetID(h.ID() + uint16(i))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		network = h
	} else {
		header.IPv6(packet).SetPayloadLength(uint16(len(udp)))
	}
	udp.SetChecksum(0)
	pseudo := header.PseudoHeaderChecksum(header.UDPProtocolNumber, network.SourceAddress(), network.DestinationAddress(), uint16(len(udp)))
	sum := ^checksum.Checksum(udp, pseudo)
	if sum == 0 {
		sum = 0xffff
	}
	udp.SetChecksum(sum)
}
