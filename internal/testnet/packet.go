package testnet

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// EtherTypes of the frames built here.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd
)

const (
	ethLen  = header.EthernetMinimumSize
	ip4Len  = header.IPv4MinimumSize
	ip6Len  = header.IPv6MinimumSize
	fragLen = header.IPv6FragmentHeaderSize
)

// GuestMAC is the guest's Ethernet address, which frames come from unless they
// say otherwise.
func GuestMAC() [6]byte { return [6]byte{0x02, 0, 0, 0, 0, 0x64} }

// TTL of packets, unless another one is given.
const TTL = 64

// Packet is an IP packet in an Ethernet frame. Its family follows from Src.
type Packet struct {
	SrcMAC, DstMAC [6]byte // the guest's and an arbitrary one if zero
	Src, Dst       netip.Addr
	Proto          uint8 // of the transport; for IPv6, behind the extensions
	TTL            uint8 // 64 if zero
	ID             uint32
	Options        []byte // of IPv4, a multiple of four bytes
	// Extensions are IPv6 extension headers, whole; the last one's next header
	// is filled in. ExtensionType is the first one's number. Parse leaves them
	// in the payload.
	Extensions    []byte
	ExtensionType uint8
	// Offset in bytes and More make a fragment; for IPv6 a fragment header is
	// added behind the extensions.
	Offset  int
	More    bool
	Payload []byte // transport header and data
}

// Fragment reports whether this is a part of a packet.
func (p *Packet) Fragment() bool { return p.More || p.Offset > 0 }

// SrcPort of a UDP or TCP packet.
func (p *Packet) SrcPort() uint16 { return binary.BigEndian.Uint16(p.Payload) }

// DstPort of a UDP or TCP packet.
func (p *Packet) DstPort() uint16 { return binary.BigEndian.Uint16(p.Payload[2:]) }

// From is source and port.
func (p *Packet) From() netip.AddrPort { return netip.AddrPortFrom(p.Src, p.SrcPort()) }

// To is destination and port.
func (p *Packet) To() netip.AddrPort { return netip.AddrPortFrom(p.Dst, p.DstPort()) }

// TCPFlags of a TCP packet.
func (p *Packet) TCPFlags() header.TCPFlags { return header.TCP(p.Payload).Flags() }

// Frame builds the Ethernet frame.
func (p Packet) Frame() []byte {
	b := make([]byte, 0, ethLen+ip6Len+fragLen+len(p.Options)+len(p.Extensions)+len(p.Payload))
	dst, src := p.DstMAC, p.SrcMAC
	if dst == ([6]byte{}) {
		dst = [6]byte{0x52, 0x55, 10, 0, 2, 2}
	}
	if src == ([6]byte{}) {
		src = GuestMAC()
	}
	if p.TTL == 0 {
		p.TTL = TTL
	}
	b = append(append(b, dst[:]...), src[:]...)
	if p.Src.Is4() {
		b = p.appendIPv4(b)
	} else {
		b = p.appendIPv6(b)
	}
	return append(b, p.Payload...)
}

func (p *Packet) appendIPv4(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, EtherIPv4)
	frag := uint16(p.Offset / 8)
	if p.More {
		frag |= 0x2000
	}
	b = append(b, 0x40|uint8((ip4Len+len(p.Options))/4), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ip4Len+len(p.Options)+len(p.Payload)))
	b = binary.BigEndian.AppendUint16(b, uint16(p.ID))
	b = binary.BigEndian.AppendUint16(b, frag)
	b = append(b, p.TTL, p.Proto, 0, 0)
	b = append(append(b, p.Src.AsSlice()...), p.Dst.AsSlice()...)
	b = append(b, p.Options...)
	FixIPv4(b)
	return b
}

func (p *Packet) appendIPv6(b []byte) []byte {
	ext, next := append([]byte(nil), p.Extensions...), p.Proto
	if p.Fragment() {
		word := uint16(p.Offset)
		if p.More {
			word |= 1
		}
		f := binary.BigEndian.AppendUint16([]byte{p.Proto, 0}, word)
		ext = append(ext, binary.BigEndian.AppendUint32(f, p.ID)...)
		next = header.IPv6FragmentHeader
	}
	if len(p.Extensions) > 0 {
		last := 0
		for off := 0; off < len(p.Extensions); off += (int(p.Extensions[off+1]) + 1) * 8 {
			last = off
		}
		ext[last] = next
		next = p.ExtensionType
	}
	b = binary.BigEndian.AppendUint16(b, EtherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(ext)+len(p.Payload)))
	b = append(b, next, p.TTL)
	b = append(append(b, p.Src.AsSlice()...), p.Dst.AsSlice()...)
	return append(b, ext...)
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
