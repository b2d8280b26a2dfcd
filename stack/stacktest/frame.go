package stacktest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// EtherTypes and IP protocol numbers of the frames built here.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd

	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58

	ethLen  = 14
	ip4Len  = 20
	ip6Len  = 40
	fragLen = 8
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// GuestMAC is the Ethernet address that frames come from unless they say
// otherwise.
var GuestMAC = [6]byte{0x02, 0, 0, 0, 0, 0x64}

// Packet is an IP packet in an Ethernet frame. Its family follows from Src.
type Packet struct {
	SrcMAC, DstMAC [6]byte // GuestMAC and an arbitrary one if zero
	Src, Dst       netip.Addr
	Proto          uint8 // of the transport; for IPv6, behind the extensions
	TTL            uint8 // 64 if zero
	ID             uint32
	Options        []byte // of IPv4, a multiple of four bytes
	// Extensions are IPv6 extension headers, whole; the last one's next header
	// is filled in. ExtensionType is the first one's number.
	Extensions    []byte
	ExtensionType uint8
	// Offset in bytes and More make a fragment; for IPv6 a fragment header is
	// added behind the extensions.
	Offset  int
	More    bool
	Payload []byte // transport header and data
}

// Frame builds the Ethernet frame.
func (p Packet) Frame() []byte {
	b := make([]byte, 0, ethLen+ip6Len+fragLen+len(p.Options)+len(p.Extensions)+len(p.Payload))
	dst, src := p.DstMAC, p.SrcMAC
	if dst == ([6]byte{}) {
		dst = [6]byte{0x52, 0x55, 10, 0, 2, 2}
	}
	if src == ([6]byte{}) {
		src = GuestMAC
	}
	b = append(append(b, dst[:]...), src[:]...)
	ttl := p.TTL
	if ttl == 0 {
		ttl = 64
	}
	if p.Src.Is4() {
		b = binary.BigEndian.AppendUint16(b, EtherIPv4)
		frag := uint16(p.Offset / 8)
		if p.More {
			frag |= 0x2000
		}
		b = append(b, 0x40|uint8((ip4Len+len(p.Options))/4), 0)
		b = binary.BigEndian.AppendUint16(b, uint16(ip4Len+len(p.Options)+len(p.Payload)))
		b = binary.BigEndian.AppendUint16(b, uint16(p.ID))
		b = binary.BigEndian.AppendUint16(b, frag)
		b = append(b, ttl, p.Proto, 0, 0)
		b = append(append(b, p.Src.AsSlice()...), p.Dst.AsSlice()...)
		b = append(b, p.Options...)
		FixIPv4(b)
		return append(b, p.Payload...)
	}
	ext := append([]byte(nil), p.Extensions...)
	first, fragment := p.Proto, p.More || p.Offset > 0
	if fragment {
		word := uint16(p.Offset)
		if p.More {
			word |= 1
		}
		f := binary.BigEndian.AppendUint16([]byte{p.Proto, 0}, word)
		ext = append(ext, binary.BigEndian.AppendUint32(f, p.ID)...)
		first = 44
	}
	if len(p.Extensions) > 0 {
		last := 0
		for off := 0; off < len(p.Extensions); off += (int(p.Extensions[off+1]) + 1) * 8 {
			last = off
		}
		ext[last] = first
		first = p.ExtensionType
	}
	b = binary.BigEndian.AppendUint16(b, EtherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(ext)+len(p.Payload)))
	b = append(b, first, ttl)
	b = append(append(b, p.Src.AsSlice()...), p.Dst.AsSlice()...)
	b = append(b, ext...)
	return append(b, p.Payload...)
}

// Fragments cuts the packet into frames of at most mtu bytes of IP.
func (p Packet) Fragments(mtu int) [][]byte {
	head := ip4Len + len(p.Options)
	if p.Src.Is6() {
		head = ip6Len + len(p.Extensions) + fragLen
	}
	size := (mtu - head) &^ 7
	var frames [][]byte
	for off := 0; off < len(p.Payload); off += size {
		f := p
		end := min(off+size, len(p.Payload))
		f.Offset, f.More, f.Payload = off, end < len(p.Payload), p.Payload[off:end]
		frames = append(frames, f.Frame())
	}
	return frames
}

// FixIPv4 fills in the header checksum of a frame with an IPv4 header.
func FixIPv4(frame []byte) {
	h := frame[ethLen:]
	h = h[:int(h[0]&15)*4]
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^checksum.Checksum(h, 0))
}

// UDP is a UDP packet with its checksum.
func UDP(src, dst netip.AddrPort, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 8+len(data)), src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	b = append(append(b, 0, 0), data...)
	sum := ^TransportSum(src.Addr(), dst.Addr(), ProtoUDP, b)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

// UDPFrame is UDP in an IP packet in a frame.
func UDPFrame(src, dst netip.AddrPort, data []byte) []byte {
	return Packet{Src: src.Addr(), Dst: dst.Addr(), Proto: ProtoUDP, Payload: UDP(src, dst, data)}.Frame()
}

// TCP is a TCP segment with its checksum and a window of 64240 bytes.
func TCP(src, dst netip.AddrPort, flags uint8, seq, ack uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 20+len(data)), src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, 5<<4, flags)
	b = binary.BigEndian.AppendUint16(b, 64240)
	b = append(append(b, 0, 0, 0, 0), data...)
	binary.BigEndian.PutUint16(b[16:], ^TransportSum(src.Addr(), dst.Addr(), ProtoTCP, b))
	return b
}

// TCPFrame is TCP in an IP packet in a frame.
func TCPFrame(src, dst netip.AddrPort, flags uint8, seq, ack uint32, data []byte) []byte {
	return Packet{Src: src.Addr(), Dst: dst.Addr(), Proto: ProtoTCP, Payload: TCP(src, dst, flags, seq, ack, data)}.Frame()
}

// ICMP is an ICMP message, or ICMPv6 if src is an IPv6 address, with its
// checksum; body follows the checksum field.
func ICMP(src, dst netip.Addr, typ, code uint8, body []byte) []byte {
	b := append([]byte{typ, code, 0, 0}, body...)
	binary.BigEndian.PutUint16(b[2:], ^TransportSum(src, dst, icmpProto(src), b))
	return b
}

// ICMPFrame is ICMP in an IP packet in a frame. Neighbour discovery gets the
// hop limit it needs.
func ICMPFrame(src, dst netip.Addr, typ, code uint8, body []byte) []byte {
	p := Packet{Src: src, Dst: dst, Proto: icmpProto(src), Payload: ICMP(src, dst, typ, code, body)}
	if src.Is6() && typ >= 133 && typ <= 137 {
		p.TTL = 255
	}
	return p.Frame()
}

func icmpProto(a netip.Addr) uint8 {
	if a.Is6() {
		return ProtoICMPv6
	}
	return ProtoICMP
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

// TransportSum is the checksum of a transport packet and its pseudo header;
// 0xffff for a packet whose checksum field is right.
func TransportSum(src, dst netip.Addr, proto uint8, b []byte) uint16 {
	if proto == ProtoICMP {
		return checksum.Checksum(b, 0)
	}
	return checksum.Checksum(b, PseudoSum(src, dst, proto, len(b)))
}

// PseudoSum is the checksum of a pseudo header, which is what a partial
// checksum consists of.
func PseudoSum(src, dst netip.Addr, proto uint8, size int) uint16 {
	h := append(src.AsSlice(), dst.AsSlice()...)
	h = binary.BigEndian.AppendUint32(h, uint32(size))
	h = append(h, 0, 0, 0, proto)
	return checksum.Checksum(h, 0)
}

// Parse takes apart an IP packet that the stack wrote. It fails if a length or
// a checksum is wrong; that of a fragment's transport is not looked at, and a
// partial one (see VNetHdr) must be just the pseudo header's.
func Parse(f Frame) (Packet, error) {
	b := f.Data
	if len(b) < ethLen {
		return Packet{}, errors.New("no Ethernet header")
	}
	p := Packet{DstMAC: [6]byte(b[0:6]), SrcMAC: [6]byte(b[6:12])}
	var err error
	switch typ := binary.BigEndian.Uint16(b[12:]); typ {
	case EtherIPv4:
		err = p.parseIPv4(b[ethLen:])
	case EtherIPv6:
		err = p.parseIPv6(b[ethLen:])
	default:
		err = fmt.Errorf("EtherType %#x", typ)
	}
	if err != nil {
		return p, err
	}
	return p, p.check(f)
}

func (p *Packet) parseIPv4(b []byte) error {
	if len(b) < ip4Len || b[0]>>4 != 4 {
		return errors.New("no IPv4 header")
	}
	hl := int(b[0]&15) * 4
	if hl < ip4Len || hl > len(b) || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return fmt.Errorf("IPv4 lengths: header %d, total %d of %d", hl, binary.BigEndian.Uint16(b[2:]), len(b))
	}
	if checksum.Checksum(b[:hl], 0) != 0xffff {
		return errors.New("IPv4 header checksum is wrong")
	}
	p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.ID, p.TTL, p.Proto = uint32(binary.BigEndian.Uint16(b[4:])), b[8], b[9]
	frag := binary.BigEndian.Uint16(b[6:])
	p.Offset, p.More = int(frag&0x1fff)*8, frag&0x2000 != 0
	p.Options, p.Payload = b[ip4Len:hl], b[hl:]
	return nil
}

func (p *Packet) parseIPv6(b []byte) error {
	if len(b) < ip6Len || b[0]>>4 != 6 {
		return errors.New("no IPv6 header")
	}
	if int(binary.BigEndian.Uint16(b[4:])) != len(b)-ip6Len {
		return fmt.Errorf("IPv6 payload length %d of %d", binary.BigEndian.Uint16(b[4:]), len(b)-ip6Len)
	}
	p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p.Proto, p.TTL, p.Payload = b[6], b[7], b[ip6Len:]
	if p.Proto == 44 {
		if len(p.Payload) < fragLen {
			return errors.New("no fragment header")
		}
		word := binary.BigEndian.Uint16(p.Payload[2:])
		p.Offset, p.More = int(word&^7), word&1 != 0
		p.ID, p.Proto = binary.BigEndian.Uint32(p.Payload[4:]), p.Payload[0]
		p.Payload = p.Payload[fragLen:]
	}
	return nil
}

// Checksum fields by protocol.
var sumAt = map[uint8]int{ProtoICMP: 2, ProtoICMPv6: 2, ProtoTCP: 16, ProtoUDP: 6}

func (p *Packet) check(f Frame) error {
	at, ok := sumAt[p.Proto]
	if p.More || p.Offset > 0 || !ok {
		return nil
	}
	if len(p.Payload) < at+2 {
		return errors.New("transport header is cut")
	}
	if f.VNet.Flags&NeedsCsum != 0 {
		start := len(f.Data) - len(p.Payload)
		got := binary.BigEndian.Uint16(p.Payload[at:])
		if want := PseudoSum(p.Src, p.Dst, p.Proto, len(p.Payload)); got != want {
			return fmt.Errorf("partial checksum %#x, want %#x", got, want)
		}
		if int(f.VNet.CsumStart) != start || int(f.VNet.CsumOffset) != at {
			return fmt.Errorf("checksum at %d+%d, want %d+%d", f.VNet.CsumStart, f.VNet.CsumOffset, start, at)
		}
		return nil
	}
	if TransportSum(p.Src, p.Dst, p.Proto, p.Payload) != 0xffff {
		return fmt.Errorf("checksum of protocol %d is wrong", p.Proto)
	}
	return nil
}
