package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// quoted is how much of a transport header hosts match an error by (RFC 792), in bytes.
const quoted = 8

// Quote identifies the guest's packet that an ICMP error is about. Hosts match
// an error to a socket by these fields, so an error may be sent long after the packet is
// gone.
type Quote struct {
	Src, Dst  netip.Addr
	Proto     uint8
	Transport [quoted]byte
}

// UDPQuote is the quote of a datagram.
func UDPQuote(src, dst netip.AddrPort, size int) Quote {
	q := Quote{Src: src.Addr(), Dst: dst.Addr(), Proto: ProtoUDP}
	binary.BigEndian.PutUint16(q.Transport[0:], src.Port())
	binary.BigEndian.PutUint16(q.Transport[2:], dst.Port())
	binary.BigEndian.PutUint16(q.Transport[4:], uint16(min(header.UDPMinimumSize+size, 0xffff)))
	return q
}

// Quote is the quote of this packet.
func (p *Packet) Quote() Quote {
	q := Quote{Src: p.Src, Dst: p.Dst, Proto: p.Proto}
	copy(q.Transport[:], p.Head)
	return q
}
