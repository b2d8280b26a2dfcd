package forwardertest

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/stack"
)

// GuestMAC is the Ethernet address of the guest.
func GuestMAC() [6]byte { return [6]byte{0x02, 0, 0, 0, 0, 0x64} }

// TTL of the frames below, unless another one is given.
const TTL = 64

func tcpipAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// Frame wraps a transport packet, checksum included, into IP and Ethernet. The
// family is that of src.
func Frame(src, dst netip.Addr, proto, ttl uint8, transport []byte) []byte {
	frame := make([]byte, header.EthernetMinimumSize, 128+len(transport))
	mac := GuestMAC()
	copy(frame[0:6], []byte{0x52, 0x55, 10, 0, 2, 2})
	copy(frame[6:12], mac[:])
	if src.Is4() {
		binary.BigEndian.PutUint16(frame[12:], uint16(header.IPv4ProtocolNumber))
		ip := header.IPv4(make([]byte, header.IPv4MinimumSize))
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(ip) + len(transport)), TTL: ttl, Protocol: proto,
			SrcAddr: tcpipAddr(src), DstAddr: tcpipAddr(dst),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		frame = append(frame, ip...)
	} else {
		binary.BigEndian.PutUint16(frame[12:], uint16(header.IPv6ProtocolNumber))
		ip := header.IPv6(make([]byte, header.IPv6MinimumSize))
		ip.Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(transport)), TransportProtocol: tcpip.TransportProtocolNumber(proto), HopLimit: ttl,
			SrcAddr: tcpipAddr(src), DstAddr: tcpipAddr(dst),
		})
		frame = append(frame, ip...)
	}
	return append(frame, transport...)
}

func pseudo(src, dst netip.Addr, proto uint8, size int) uint16 {
	return header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(proto), tcpipAddr(src), tcpipAddr(dst), uint16(size))
}

// UDP is a datagram's frame.
func UDP(src, dst netip.AddrPort, ttl uint8, payload []byte) []byte {
	b := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(payload))
	binary.BigEndian.PutUint16(b[0:], src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)+len(payload)))
	b = append(b, payload...)
	sum := ^checksum.Checksum(b, pseudo(src.Addr(), dst.Addr(), stack.ProtoUDP, len(b)))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return Frame(src.Addr(), dst.Addr(), stack.ProtoUDP, ttl, b)
}

// TCP is the frame of a segment without options.
func TCP(src, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32, payload []byte) []byte {
	h := header.TCP(make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+len(payload)))
	h.Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: seq, AckNum: ack,
		DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65535,
	})
	b := append([]byte(h), payload...)
	binary.BigEndian.PutUint16(b[16:], ^checksum.Checksum(b, pseudo(src.Addr(), dst.Addr(), stack.ProtoTCP, len(b))))
	return Frame(src.Addr(), dst.Addr(), stack.ProtoTCP, TTL, b)
}

// SYN is the frame that asks for a connection.
func SYN(src, dst netip.AddrPort, seq uint32) []byte {
	return TCP(src, dst, header.TCPFlagSyn, seq, 0, nil)
}

// Echo is the frame of an echo request of either family.
func Echo(src, dst netip.Addr, id, seq uint16, ttl uint8, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	b[0] = 8
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	b = append(b, payload...)
	if src.Is4() {
		binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, 0))
		return Frame(src, dst, stack.ProtoICMP, ttl, b)
	}
	b[0] = 128
	binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, pseudo(src, dst, stack.ProtoICMPv6, len(b))))
	return Frame(src, dst, stack.ProtoICMPv6, ttl, b)
}

// Packet is what Parse finds in a frame.
type Packet struct {
	Src, Dst netip.Addr
	Proto    uint8
	TTL      uint8
	// ChecksumOK covers the IP header and the transport packet; true for
	// fragments, whose transport checksum cannot be seen.
	ChecksumOK bool
	Fragment   bool
	Transport  []byte
}

// SrcPort of a UDP or TCP packet.
func (p *Packet) SrcPort() uint16 { return binary.BigEndian.Uint16(p.Transport) }

// DstPort of a UDP or TCP packet.
func (p *Packet) DstPort() uint16 { return binary.BigEndian.Uint16(p.Transport[2:]) }

// From is source and port.
func (p *Packet) From() netip.AddrPort { return netip.AddrPortFrom(p.Src, p.SrcPort()) }

// TCPFlags of a TCP packet.
func (p *Packet) TCPFlags() header.TCPFlags { return header.TCP(p.Transport).Flags() }

// Quoted is the packet that an ICMP error is about, as far as it is quoted.
func (p *Packet) Quoted() (Packet, bool) {
	if len(p.Transport) < 8 {
		return Packet{}, false
	}
	return parseIP(p.Transport[8:], false)
}

// Parse takes a frame apart; false if it is neither IPv4 nor IPv6.
func Parse(frame []byte) (Packet, bool) {
	if len(frame) < header.EthernetMinimumSize {
		return Packet{}, false
	}
	switch tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(frame[12:])) {
	case header.IPv4ProtocolNumber, header.IPv6ProtocolNumber:
		return parseIP(frame[header.EthernetMinimumSize:], true)
	}
	return Packet{}, false
}

func parseIP(b []byte, whole bool) (p Packet, ok bool) {
	if len(b) < header.IPv4MinimumSize {
		return p, false
	}
	if b[0]>>4 == 4 {
		ip := header.IPv4(b)
		n := int(ip.HeaderLength())
		if len(b) < n || whole && int(ip.TotalLength()) > len(b) {
			return p, false
		}
		p = Packet{
			Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
			Proto: ip.Protocol(), TTL: ip.TTL(), Fragment: ip.More() || ip.FragmentOffset() > 0, Transport: b[n:],
		}
		if whole {
			p.Transport = b[n:ip.TotalLength()]
		}
		p.ChecksumOK = ^checksum.Checksum(b[:n], 0) == 0
	} else {
		ip := header.IPv6(b)
		if b[0]>>4 != 6 || len(b) < header.IPv6MinimumSize || whole && header.IPv6MinimumSize+int(ip.PayloadLength()) > len(b) {
			return p, false
		}
		p = Packet{
			Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])),
			Proto: ip.NextHeader(), TTL: ip.HopLimit(), ChecksumOK: true, Transport: b[header.IPv6MinimumSize:],
		}
		if whole {
			p.Transport = p.Transport[:ip.PayloadLength()]
		}
		p.Fragment = p.Proto == header.IPv6FragmentHeader
	}
	if p.Fragment || !whole {
		return p, true
	}
	var sum uint16
	if p.Proto != stack.ProtoICMP {
		sum = pseudo(p.Src, p.Dst, p.Proto, len(p.Transport))
	}
	p.ChecksumOK = p.ChecksumOK && ^checksum.Checksum(p.Transport, sum) == 0
	return p, true
}

// completeChecksum does what a guest's kernel does with a frame whose virtio
// header asks for it, and takes the header off.
func completeChecksum(frame []byte) []byte {
	if len(frame) < virtioHdrLen {
		return nil
	}
	hdr, frame := frame[:virtioHdrLen], frame[virtioHdrLen:]
	if hdr[0]&1 != 0 {
		start := int(binary.LittleEndian.Uint16(hdr[6:]))
		at := start + int(binary.LittleEndian.Uint16(hdr[8:]))
		if at+2 <= len(frame) {
			sum := ^checksum.Checksum(frame[start:], 0)
			binary.BigEndian.PutUint16(frame[at:], sum)
		}
	}
	return frame
}
