package testnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Parse takes a frame with whole checksums apart; see Frame.Parse.
func Parse(frame []byte) (Packet, error) { return Frame{Data: frame}.Parse() }

// Parse takes apart an IP packet that the stack wrote. It fails if a length or
// a checksum is wrong; that of a fragment's transport is not looked at, and a
// partial one (see VNetHdr) must be just the pseudo header's.
func (f Frame) Parse() (Packet, error) {
	b := f.Data
	if len(b) < ethLen {
		return Packet{}, errors.New("no Ethernet header")
	}
	if typ := binary.BigEndian.Uint16(b[12:]); typ != EtherIPv4 && typ != EtherIPv6 {
		return Packet{}, fmt.Errorf("EtherType %#x", typ)
	}
	p, size, err := parseIP(b[ethLen:])
	p.DstMAC, p.SrcMAC = [6]byte(b[0:6]), [6]byte(b[6:12])
	switch {
	case err != nil:
		return p, err
	case size != len(b)-ethLen:
		return p, fmt.Errorf("an IP packet of %d bytes says it has %d", len(b)-ethLen, size)
	case p.Src.Is4() && checksum.Checksum(b[ethLen:len(b)-len(p.Payload)], 0) != 0xffff:
		return p, errors.New("IPv4 header checksum is wrong")
	}
	return p, p.checkSum(f)
}

// ParseCut reads the headers of an IP packet that may have lost its end, and
// holds its lengths and checksums against nothing.
func ParseCut(ip []byte) (Packet, error) {
	p, _, err := parseIP(ip)
	return p, err
}

// Quoted is the packet that an ICMP error is about, as far as it is quoted.
func (p *Packet) Quoted() (Packet, bool) {
	if len(p.Payload) < header.ICMPv4MinimumSize {
		return Packet{}, false
	}
	q, err := ParseCut(p.Payload[header.ICMPv4MinimumSize:])
	return q, err == nil
}

// parseIP gives the size that the packet says it has, too.
func parseIP(b []byte) (p Packet, size int, err error) {
	switch {
	case len(b) >= ip4Len && b[0]>>4 == 4:
		return parseIPv4(b)
	case len(b) >= ip6Len && b[0]>>4 == 6:
		return parseIPv6(b)
	}
	return p, 0, errors.New("no IP header")
}

func parseIPv4(b []byte) (p Packet, size int, err error) {
	hl := int(b[0]&15) * 4
	if hl < ip4Len || hl > len(b) {
		return p, 0, fmt.Errorf("IPv4 header of %d bytes", hl)
	}
	p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.ID, p.TTL, p.Proto = uint32(binary.BigEndian.Uint16(b[4:])), b[8], b[9]
	frag := binary.BigEndian.Uint16(b[6:])
	p.Offset, p.More = int(frag&0x1fff)*8, frag&0x2000 != 0
	p.Options, p.Payload = b[ip4Len:hl], b[hl:]
	return p, int(binary.BigEndian.Uint16(b[2:])), nil
}

func parseIPv6(b []byte) (p Packet, size int, err error) {
	p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p.Proto, p.TTL, p.Payload = b[6], b[7], b[ip6Len:]
	if p.Proto == header.IPv6FragmentHeader {
		if len(p.Payload) < fragLen {
			return p, 0, errors.New("no fragment header")
		}
		word := binary.BigEndian.Uint16(p.Payload[2:])
		p.Offset, p.More = int(word&^7), word&1 != 0
		p.ID, p.Proto = binary.BigEndian.Uint32(p.Payload[4:]), p.Payload[0]
		p.Payload = p.Payload[fragLen:]
	}
	return p, ip6Len + int(binary.BigEndian.Uint16(b[4:])), nil
}

func (p *Packet) checkSum(f Frame) error {
	at := sumAt(p.Proto)
	if p.Fragment() || at == 0 {
		return nil
	}
	if len(p.Payload) < at+2 {
		return errors.New("transport header is cut")
	}
	if f.VNet.Flags&NeedsCsum == 0 {
		if TransportSum(p.Src, p.Dst, p.Proto, p.Payload) != 0xffff {
			return fmt.Errorf("checksum of protocol %d is wrong", p.Proto)
		}
		return nil
	}
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
