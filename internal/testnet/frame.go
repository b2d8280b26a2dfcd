package testnet

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Checksum fields by protocol; zero for others.
func sumAt(proto uint8) int {
	switch proto {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return 2
	case unix.IPPROTO_TCP:
		return 16
	case unix.IPPROTO_UDP:
		return 6
	}
	return 0
}

// FixTransport fills in the checksum of a UDP, TCP, ICMP or ICMPv6 packet.
func FixTransport(src, dst netip.Addr, proto uint8, b []byte) {
	field := b[sumAt(proto):]
	field[0], field[1] = 0, 0
	sum := ^TransportSum(src, dst, proto, b)
	if sum == 0 && proto == unix.IPPROTO_UDP {
		sum = 0xffff // zero would mean none
	}
	binary.BigEndian.PutUint16(field, sum)
}

// TransportSum is the checksum of a transport packet and its pseudo header;
// 0xffff for a packet whose checksum field is right.
func TransportSum(src, dst netip.Addr, proto uint8, b []byte) uint16 {
	if proto == unix.IPPROTO_ICMP {
		return checksum.Checksum(b, 0)
	}
	return checksum.Checksum(b, PseudoSum(src, dst, proto, len(b)))
}

// PseudoSum is the checksum of a pseudo header, which is what a partial
// checksum consists of.
func PseudoSum(src, dst netip.Addr, proto uint8, size int) uint16 {
	return header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(proto), tcpipAddr(src), tcpipAddr(dst), uint16(size))
}

func tcpipAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// Datagram is a UDP packet with its checksum.
func Datagram(src, dst netip.AddrPort, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 8+len(data)), src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	b = append(append(b, 0, 0), data...)
	FixTransport(src.Addr(), dst.Addr(), unix.IPPROTO_UDP, b)
	return b
}

// UDP is the frame of a Datagram.
func UDP(src, dst netip.AddrPort, ttl uint8, data []byte) []byte {
	return Packet{Src: src.Addr(), Dst: dst.Addr(), TTL: ttl, Proto: unix.IPPROTO_UDP, Payload: Datagram(src, dst, data)}.Frame()
}

// Segment is a TCP segment without options, with its checksum and a window of
// 64240 bytes.
func Segment(src, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32, data []byte) []byte {
	h := make(header.TCP, header.TCPMinimumSize, header.TCPMinimumSize+len(data))
	h.Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: seq, AckNum: ack,
		DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 64240,
	})
	b := append(h, data...)
	FixTransport(src.Addr(), dst.Addr(), unix.IPPROTO_TCP, b)
	return b
}

// TCP is the frame of a Segment.
func TCP(src, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32, data []byte) []byte {
	return Packet{Src: src.Addr(), Dst: dst.Addr(), Proto: unix.IPPROTO_TCP, Payload: Segment(src, dst, flags, seq, ack, data)}.Frame()
}

// SYN is the frame that asks for a connection.
func SYN(src, dst netip.AddrPort, seq uint32) []byte {
	return TCP(src, dst, header.TCPFlagSyn, seq, 0, nil)
}

// ICMPMessage is an ICMP message, or ICMPv6 if src is an IPv6 address, with
// its checksum; body follows the checksum field.
func ICMPMessage(src, dst netip.Addr, typ, code uint8, body []byte) []byte {
	b := append([]byte{typ, code, 0, 0}, body...)
	FixTransport(src, dst, icmpProto(src), b)
	return b
}

// ICMP is the frame of an ICMPMessage. Neighbour discovery gets the hop limit
// it needs.
func ICMP(src, dst netip.Addr, typ, code uint8, body []byte) []byte {
	p := Packet{Src: src, Dst: dst, Proto: icmpProto(src), Payload: ICMPMessage(src, dst, typ, code, body)}
	if src.Is6() && typ >= 133 && typ <= 137 {
		p.TTL = header.NDPHopLimit
	}
	return p.Frame()
}

// Echo is the frame of an echo request of either family.
func Echo(src, dst netip.Addr, id, seq uint16, ttl uint8, data []byte) []byte {
	body := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, id), seq)
	typ := uint8(header.ICMPv4Echo)
	if src.Is6() {
		typ = uint8(header.ICMPv6EchoRequest)
	}
	p := Packet{Src: src, Dst: dst, TTL: ttl, Proto: icmpProto(src)}
	p.Payload = ICMPMessage(src, dst, typ, 0, append(body, data...))
	return p.Frame()
}

func icmpProto(a netip.Addr) uint8 {
	if a.Is6() {
		return unix.IPPROTO_ICMPV6
	}
	return unix.IPPROTO_ICMP
}

// ARP is a frame with an ARP packet for IPv4 over Ethernet.
func ARP(op uint16, senderMAC [6]byte, sender netip.Addr, targetMAC [6]byte, target netip.Addr) []byte {
	b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, senderMAC[:]...)
	b = binary.BigEndian.AppendUint16(b, EtherARP)
	b = append(b, 0, 1, 8, 0, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, senderMAC[:]...), sender.AsSlice()...)
	return append(append(b, targetMAC[:]...), target.AsSlice()...)
}
