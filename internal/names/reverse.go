package names

import (
	"net/netip"
	"strconv"
	"strings"
)

// step is how many bits of an address one label of its reverse name stands for.
func step(a netip.Addr) int {
	if a.Is4() {
		return 8
	}
	return 4
}

// reverseName returns the name of an address in in-addr.arpa (RFC 1035, section
// 3.5) or ip6.arpa (RFC 3596, section 2.5).
func reverseName(a netip.Addr) string { return reversePrefix(a, a.BitLen()) }

// reversePrefix returns the part of an address's reverse name that its first bits
// determine, which are a multiple of step.
func reversePrefix(a netip.Addr, bits int) string {
	var b strings.Builder
	bytes := a.AsSlice()
	if a.Is4() {
		for i := bits/8 - 1; i >= 0; i-- {
			b.WriteString(strconv.Itoa(int(bytes[i])) + ".")
		}
		return b.String() + "in-addr.arpa"
	}
	for i := bits/4 - 1; i >= 0; i-- {
		nibble := bytes[i/2] >> (4 * (1 - i%2)) & 0xf
		b.WriteString(strconv.FormatUint(uint64(nibble), 16) + ".")
	}
	return b.String() + "ip6.arpa"
}

// reverseZones lists the zones that together have the reverse names of a subnet's
// addresses and of no others: one, or up to 128 where the prefix ends inside a label.
func reverseZones(p netip.Prefix) []string {
	if !p.IsValid() {
		return nil
	}
	p = p.Masked()
	width := step(p.Addr())
	bits := (p.Bits() + width - 1) / width * width
	var zones []string
	for i := range 1 << (bits - p.Bits()) {
		a := p.Addr().AsSlice()
		if bits > 0 {
			// The label's low bits, which the prefix leaves open.
			a[(bits-1)/8] |= byte(i << ((8 - bits%8) % 8))
		}
		addr, _ := netip.AddrFromSlice(a)
		zones = append(zones, reversePrefix(addr, bits))
	}
	return zones
}
