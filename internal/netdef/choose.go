package netdef

import (
	"fmt"
	"net/netip"
	"slices"
)

// pools is how many subnets there are to choose from, of either family.
const pools = 256

// pool4 is the n-th subnet to choose, 10.90.n.0/24.
func pool4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 90, byte(n), 0}), 24)
}

// pool6 is the n-th IPv6 subnet to choose, fd90:0:0:n::/64 (RFC 4193).
func pool6(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x90, 7: byte(n)}), 64)
}

// Choose returns d with the subnets that it leaves open: the lowest 10.90.N.0/24 and
// fd90:0:0:N::/64 that overlap with none of taken, with the same N for both if there
// is one. Subnets that d names stay, even if they are taken. A route that covers all pools,
// as a company's 10.0.0.0/8 does, does not count: few of its addresses are in use.
func Choose(d Definition, taken []netip.Prefix) (Definition, error) {
	chosen, err := choose(d, taken)
	if err != nil {
		chosen, err = choose(d, slices.DeleteFunc(slices.Clone(taken), coversPools))
	}
	return chosen, err
}

// coversPools reports whether p covers all pools of its family, and more.
func coversPools(p netip.Prefix) bool {
	return p.Bits() < 16 && p.Contains(pool4(0).Addr()) || p.Bits() < 56 && p.Contains(pool6(0).Addr())
}

func choose(d Definition, taken []netip.Prefix) (Definition, error) {
	free4 := func(n int) bool { return fits(d.Subnet, pool4(n), taken) }
	free6 := func(n int) bool { return d.IPv4Only || fits(d.Subnet6, pool6(n), taken) }
	n4 := lowest(func(n int) bool { return free4(n) && free6(n) })
	n6 := n4
	if n4 == pools { // there is no N for both
		n4, n6 = lowest(free4), lowest(free6)
	}
	const full = "network %s: the host's networks and other ones of ours take all of %s: name a free subnet with %s"
	if !d.Subnet.IsValid() {
		if n4 == pools {
			return d, fmt.Errorf(full, d.Name, "10.90.0.0/16", "--subnet")
		}
		d.Subnet = pool4(n4)
	}
	if !d.Subnet6.IsValid() && !d.IPv4Only {
		if n6 == pools {
			return d, fmt.Errorf(full, d.Name, "fd90::/56", "--subnet6")
		}
		d.Subnet6 = pool6(n6)
	}
	return d, nil
}

// fits reports whether a network may have this pool; named is the subnet that it names, zero
// for none.
func fits(named, pool netip.Prefix, taken []netip.Prefix) bool {
	if named.IsValid() {
		return named == pool
	}
	_, overlaps := Overlap(pool, taken)
	return !overlaps
}

// lowest returns the lowest N that is free, or pools if there is none.
func lowest(free func(n int) bool) int {
	for n := range pools {
		if free(n) {
			return n
		}
	}
	return pools
}

// Overlap returns the first of taken that overlaps p.
func Overlap(p netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	for _, t := range taken {
		if p.Overlaps(t) {
			return t, true
		}
	}
	return netip.Prefix{}, false
}
