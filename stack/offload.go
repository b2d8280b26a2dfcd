package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A guest's kernel takes the TAP for a network card and leaves work to it, which the
// virtio-net header names: cutting super-segments, and filling in one checksum (virtio
// 1.2 section 5.1.6.2). That checksum is mostly the one of the packet's own TCP or UDP
// header, which ends here, so nobody computes it. But it may be any field further in:
// that of a segment in a VXLAN datagram, say, whose payload leaves by a host socket as
// it is.
//
// Super-segments are never inside a tunnel: the kernel passes those on only to devices
// with NETIF_F_GSO_UDP_TUNNEL, which a TAP has only if TUN_F_UDP_TUNNEL_GSO is asked
// for.

// offloads does what h asks for, as far as the result is visible. checked reports that
// the guest's kernel vouches for p's own transport checksum: it left it to be filled
// in, or has verified it. ok is false if h does not fit p, which no kernel produces.
func (h *virtioHdr) offloads(p *Packet) (checked, ok bool) {
	if h.flags&virtioNeedsCsum != 0 {
		start := int(h.csumStart) - header.EthernetMinimumSize
		if start != p.HeaderLen() || h.csumOffset != checksumOffset(p.Proto) {
			return false, h.gsoType == 0 && p.fillChecksum(start, start+int(h.csumOffset))
		}
	}
	switch h.gsoType &^ virtioGSOECN {
	case 0:
		ok = true
	case virtioGSOTCPv4, virtioGSOTCPv6:
		ok = p.Proto == ProtoTCP
	case virtioGSOUDPL4:
		ok = p.Proto == ProtoUDP
		p.SegmentSize = h.gsoSize
	}
	return h.flags&(virtioNeedsCsum|virtioDataValid) != 0, ok
}

// checksumOffset is where a transport header has its checksum.
func checksumOffset(proto uint8) uint16 {
	switch proto {
	case ProtoTCP:
		return header.TCPChecksumOffset
	case ProtoUDP:
		return udpChecksum
	}
	return header.ICMPv6ChecksumOffset // of either family
}

// fillChecksum fills in the checksum at the offset at of all that begins at start, both
// counted from the IP header on. The field holds the sum of a pseudo header already. It
// reports whether both lie behind the IP header and within the packet.
func (p *Packet) fillChecksum(start, at int) bool {
	if start < p.HeaderLen() || at+2 > len(p.ip)+len(p.Tail) {
		return false
	}
	head, tail := p.from(start)
	var c checksum.Checksumer
	c.Add(head)
	c.Add(tail)
	sum := ^c.Checksum()
	if sum == 0 {
		sum = 0xffff // the same number, and to UDP not "no checksum"
	}
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], sum)
	head, tail = p.from(at)
	copy(tail, b[copy(head, b[:]):])
	return true
}

// from is the packet from the offset at on.
func (p *Packet) from(at int) (head, tail []byte) {
	if at <= len(p.ip) {
		return p.ip[at:], p.Tail
	}
	return nil, p.Tail[at-len(p.ip):]
}
