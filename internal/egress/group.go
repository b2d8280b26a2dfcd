package egress

import (
	"net/netip"

	"epiphyte/internal/names"
)

// group is a word of the language that stands for addresses.
type group uint8

const (
	noGroup group = iota
	publicGroup
	privateGroup
	hostGroup
	metadataGroup
	membersGroup
	dnsGroup
	groups
)

func groupNamed(s string) group {
	if names.IsHost(s) {
		return hostGroup
	}
	switch s {
	case "public":
		return publicGroup
	case "private":
		return privateGroup
	case "host":
		return hostGroup
	case "metadata":
		return metadataGroup
	case "members":
		return membersGroup
	case "dns":
		return dnsGroup
	}
	return noGroup
}

// set is a set of groups, a bit for each.
type set uint16

func (s set) has(g group) bool { return s&(1<<g) != 0 }

// groupsOf returns the groups by which rules may allow and deny the flow's address. Only the
// most specific group allows, but any that the address is in denies: allowing a private
// network does not allow the host's own address on it.
func (f *Flow) groupsOf() (allowing, denying set) {
	c := classOf(f.Addr)
	allowing = 1 << c
	denying = allowing
	if c == metadataGroup && isPrivate(f.Addr) {
		denying |= 1 << privateGroup
	}
	if f.Host {
		allowing = 1 << hostGroup
	} else if f.Member {
		allowing = 1 << membersGroup
	}
	return allowing, denying | allowing
}

// classOf is publicGroup, privateGroup, metadataGroup, or noGroup for addresses that no
// server can have: loopback, multicast, reserved.
func classOf(a netip.Addr) group {
	if a.Is6() {
		a = Inside(a.Unmap().WithZone(""))
	}
	switch {
	case !a.IsValid():
		return noGroup
	case isMetadata(a):
		return metadataGroup
	case isPrivate(a):
		return privateGroup
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.Is4() && isReserved4(a.As4()):
		return noGroup
	}
	return publicGroup
}

// Inside is the IPv4 address that an IPv6 one leads to through a translator or tunnel: NAT64
// (RFC 6052), stateless translation (RFC 7915 section 1.3) and 6to4 (RFC 3056). It returns
// others unchanged. Translators may also have prefixes of their own, which we cannot know.
func Inside(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return a
	}
	b := a.As16()
	switch {
	case [12]byte(b[:12]) == [12]byte{0, 0x64, 0xff, 0x9b}, [12]byte(b[:12]) == [12]byte{8: 0xff, 9: 0xff}:
		return netip.AddrFrom4([4]byte(b[12:]))
	case b[0] == 0x20 && b[1] == 0x02:
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return a
}

// isMetadata reports whether a is a cloud's metadata service, which hands out credentials and
// the like: the documented addresses of AWS (with ECS and EKS), Google, Azure, Alibaba,
// Oracle, Tencent and Scaleway.
func isMetadata(a netip.Addr) bool {
	if a.Is4() {
		switch a.As4() {
		case [4]byte{169, 254, 169, 254}, [4]byte{169, 254, 169, 253}, [4]byte{169, 254, 170, 2}, [4]byte{169, 254, 170, 23},
			[4]byte{169, 254, 0, 23}, [4]byte{169, 254, 42, 42}, [4]byte{168, 63, 129, 16}, [4]byte{100, 100, 100, 200}, [4]byte{192, 0, 0, 192}:
			return true
		}
		return false
	}
	switch a.As16() {
	case [16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 0x02, 15: 0x54}, [16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 0x02, 15: 0x53},
		[16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 15: 0x23}, [16]byte{0: 0xfd, 1: 0x20, 3: 0xce, 14: 0x02, 15: 0x54}, [16]byte{0: 0xfd, 3: 0x42, 15: 0x42}:
		return true
	}
	return false
}

// isPrivate reports whether a is in RFC 1918, 6598 (carriers' shared space) or 4193 (ULA), or
// link-local, or in the local translation prefix (RFC 8215), the former site-local one or
// Teredo, behind which any address may be.
func isPrivate(a netip.Addr) bool {
	if a.IsPrivate() || a.IsLinkLocalUnicast() {
		return true
	}
	if a.Is4() {
		b := a.As4()
		return b[0] == 100 && b[1]&0xc0 == 64
	}
	if !a.Is6() {
		return false
	}
	b := a.As16()
	return b[0] == 0xfe && b[1]&0xc0 == 0xc0 ||
		[6]byte(b[:6]) == [6]byte{0, 0x64, 0xff, 0x9b, 0, 1} ||
		[4]byte(b[:4]) == [4]byte{0x20, 0x01, 0, 0}
}

// isReserved4 reports whether b is in a reserved range of RFC 6890: this network, protocol
// assignments, benchmarks (which synthetic addresses are taken from) or class E. The ranges
// for documentation count as public.
func isReserved4(b [4]byte) bool {
	return b[0] == 0 || b[0] >= 240 || b[0] == 192 && b[1] == 0 && b[2] == 0 || b[0] == 198 && b[1]&0xfe == 18
}
