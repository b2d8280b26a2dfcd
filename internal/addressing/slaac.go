package addressing

import "net/netip"

// SLAAC is the address of an interface with this Ethernet address in a /64, by stateless
// autoconfiguration (RFC 4862 section 5.5.3, RFC 4291 appendix A).
func SLAAC(prefix netip.Prefix, mac [6]byte) netip.Addr {
	b := prefix.Addr().As16()
	copy(b[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(b)
}

// LinkLocal is the prefix of link-local addresses, fe80::/64 (RFC 4291 section 2.5.6).
func LinkLocal() netip.Prefix { return netip.MustParsePrefix("fe80::/64") }
