package dhcp

import (
	"encoding/binary"
	"time"
)

// When a router advertises without being asked. RFC 4861, section 6.2.1 gives
// the defaults, section 10 those of the first advertisements.
const (
	MinInterval = 200 * time.Second
	MaxInterval = 600 * time.Second

	// InitialInterval is the longest wait after each of the first
	// InitialAdvertisements.
	InitialInterval       = 16 * time.Second
	InitialAdvertisements = 3
)

// What an advertisement promises, and for how long.
const (
	hopLimit          = 64
	routerLifetime    = 3 * MaxInterval // RFC 4861, section 6.2.1
	resolverLifetime  = 3 * MaxInterval // RFC 8106, section 5.1
	validLifetime     = 24 * time.Hour
	preferredLifetime = 4 * time.Hour

	minMTU6 = 1280 // RFC 8200, section 5
)

// Types of RFC 4861, section 4, and RFC 8106, section 5.1.
const (
	typeRouterAdvertisement = 134
	optSourceLinkAddress    = 1
	optPrefix               = 3
	optMTU                  = 5
	optResolver             = 25
	optSearch               = 31

	managed          = 0x80 // DHCPv6 gives addresses, too
	prefixOnLink     = 0x80
	prefixAutonomous = 0x40
)

// AdvertisementDelay gives the time from one unsolicited advertisement to the
// next: sent is how many there have been, the last one included, and random is
// a uniform number in [0, 1).
func AdvertisementDelay(sent int, random float64) time.Duration {
	d := MinInterval + time.Duration(random*float64(MaxInterval-MinInterval))
	if sent < InitialAdvertisements {
		d = min(d, InitialInterval)
	}
	return d
}

// RouterAdvertisement builds the ICMPv6 message, type and code included, that
// tells a guest its prefix, router and resolver; nil if the plan has no
// IPv6 side. The checksum is zero, for the sender to fill in. The source must be
// the plan's GatewayLinkLocal, the hop limit 255. An MTU below 1280, IPv6's minimum, is
// left out. autonomous has the guest make an address in the prefix; false if it has one.
func RouterAdvertisement(cfg Config, autonomous bool) []byte {
	cfg = cfg.withDefaults()
	p := &cfg.Plan
	if !p.IPv6() {
		return nil
	}
	be := binary.BigEndian
	seconds := func(d time.Duration) uint32 { return uint32(d / time.Second) }

	// Checksum, then hop limit, flags, lifetime, and zero for the
	// reachable and retransmission times, which leaves them to the guest.
	m := []byte{typeRouterAdvertisement, 0, 0, 0, hopLimit, 0}
	if cfg.leases6() {
		m[5] = managed
	}
	m = be.AppendUint16(m, uint16(seconds(routerLifetime)))
	m = append(m, make([]byte, 8)...)

	m = append(m, optSourceLinkAddress, 1)
	m = append(m, cfg.MAC[:]...)

	if p.Prefix6.IsValid() {
		flags := byte(prefixOnLink)
		if autonomous {
			flags |= prefixAutonomous
		}
		m = append(m, optPrefix, 4, byte(p.Prefix6.Bits()), flags)
		m = be.AppendUint32(m, seconds(validLifetime))
		m = be.AppendUint32(m, seconds(preferredLifetime))
		m = append(m, 0, 0, 0, 0)
		m = append(m, p.Prefix6.Addr().AsSlice()...)
	}
	m = appendNames(m, optResolver, cfg.resolvers(true))
	m = appendNames(m, optSearch, cfg.search())
	if cfg.MTU >= minMTU6 {
		m = append(m, optMTU, 1, 0, 0)
		m = be.AppendUint32(m, uint32(cfg.MTU))
	}
	return m
}

// appendNames adds an option of RFC 8106, section 5, unless its value is empty or too long
// for an option.
func appendNames(m []byte, option byte, value []byte) []byte {
	units := (len(value) + 8 + 7) / 8
	if len(value) == 0 || units > 255 {
		return m
	}
	m = append(m, option, byte(units), 0, 0)
	m = binary.BigEndian.AppendUint32(m, uint32(resolverLifetime/time.Second))
	m = append(m, value...)
	return append(m, make([]byte, units*8-8-len(value))...)
}
