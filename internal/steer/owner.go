package steer

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"epiphyte/internal/plan"
	"epiphyte/stack"
)

// endpoint is an address and a port. IPv4 addresses are held v4-mapped.
type endpoint struct {
	addr [16]byte
	port uint16
}

func endpointOf(a netip.AddrPort) endpoint { return endpoint{a.Addr().As16(), a.Port()} }

// flow is what ownership depends on. Its zero value is lane 0's.
type flow struct {
	proto          uint8 // stack.ProtoTCP, stack.ProtoUDP, or 0: anything else
	guest, outside endpoint

	part part
	id   uint32 // of the datagram, if it is in parts
}

// part is what a packet is of its datagram.
type part int

const (
	whole part = iota
	first      // has the ports
	later      // does not
)

// rules say whose a flow is, but for claims and fragments.
type rules struct {
	lanes   uint64
	dns     [][16]byte // where our resolver answers
	gateway [][16]byte
}

func newRules(lanes int, p *plan.Plan, disableDNS bool) rules {
	r := rules{lanes: uint64(lanes)}
	for _, a := range p.Own() {
		switch {
		case p.IsGateway(a):
			r.gateway = append(r.gateway, a.As16())
		case !disableDNS:
			r.dns = append(r.dns, a.As16())
		}
	}
	return r
}

// owner is the lane of a flow whose ports are known.
func (r *rules) owner(f *flow) int {
	var h uint64
	switch {
	case f.proto == 0 || r.served(f):
		return 0
	case f.proto == stack.ProtoTCP:
		h = f.hash()
	default:
		h = f.guest.hash(0)
	}
	lane, _ := bits.Mul64(h, r.lanes)
	return int(lane)
}

// Ports of the services that live on lane 0, on the gateway's and on multicast
// and broadcast addresses.
const (
	portDHCPServer  = 67
	portDHCP6Server = 547
)

// served reports whether the flow is for one of our own services.
func (r *rules) served(f *flow) bool {
	for i := range r.dns {
		if f.outside.addr == r.dns[i] {
			return true
		}
	}
	if f.proto != stack.ProtoUDP {
		return false
	}
	if toMany(&f.outside.addr) {
		return true
	}
	if f.outside.port == portDHCPServer || f.outside.port == portDHCP6Server {
		for i := range r.gateway {
			if f.outside.addr == r.gateway[i] {
				return true
			}
		}
	}
	return false
}

// toMany reports whether a is a multicast address or, of IPv4, above: reserved
// ones and the broadcast address.
func toMany(a *[16]byte) bool {
	return a[0] == 0xff || [12]byte(a[:12]) == v4Mapped && a[12] >= 224
}

// v4Mapped is the prefix ::ffff:0:0/96.
var v4Mapped = [12]byte{10: 0xff, 11: 0xff}

// hash is of both endpoints. It needs no secret: a guest that chooses its ports
// so as to meet in one lane has only itself to wait for.
func (f *flow) hash() uint64 { return f.outside.hash(f.guest.hash(0)) }

// hash multiplies and folds, as wyhash does; the constants are its. Owners are told
// apart by the uppermost bits, which the second round makes depend on all.
func (e *endpoint) hash(seed uint64) uint64 {
	a := binary.LittleEndian.Uint64(e.addr[:8])
	b := binary.LittleEndian.Uint64(e.addr[8:])
	h := fold(b^seed^0xa0761d6478bd642f, a^uint64(e.port)^0xe7037ed1a0b428db)
	return fold(h^0x8ebc6af09c88c6e3, uint64(e.port)<<32^b^0x589965cc75374cc3)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
