package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// putEthernet writes the Ethernet header at the beginning of b.
func putEthernet(b []byte, src, dst [6]byte, etherType tcpip.NetworkProtocolNumber) {
	copy(b[0:], dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], uint16(etherType))
}

// putIPv4 writes an IPv4 header without options for a payload of size bytes. f
// holds what is not among the arguments.
func putIPv4(b []byte, src, dst netip.Addr, proto, ttl uint8, size int, f header.IPv4Fields) {
	f.TotalLength = uint16(header.IPv4MinimumSize + size)
	f.TTL, f.Protocol = ttl, proto
	f.SrcAddr, f.DstAddr = address(src), address(dst)
	h := header.IPv4(b)
	h.Encode(&f)
	h.SetChecksum(^h.CalculateChecksum())
}

// putIPv6 writes an IPv6 header and extension headers, if any; size is that of
// everything behind the IPv6 header.
func putIPv6(b []byte, src, dst netip.Addr, proto, hops uint8, size int, extensions header.IPv6ExtHdrSerializer) {
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(size), TransportProtocol: tcpip.TransportProtocolNumber(proto), HopLimit: hops,
		SrcAddr: address(src), DstAddr: address(dst), ExtensionHeaders: extensions,
	})
}

// protocolOf is the network protocol of a's family.
func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// address converts to gVisor's type.
func address(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

// addrFrom converts from gVisor's type.
func addrFrom(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
