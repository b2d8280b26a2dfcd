package steer

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"

	"epiphyte/internal/addressing"
	"epiphyte/stack"
)

// flow is what ownership depends on. Its zero value is worker 0's.
type flow struct {
	proto          uint8 // stack.ProtoTCP, stack.ProtoUDP, or 0: anything else
	guest, outside netip.AddrPort
}

// portsLen is the size of the ports at the beginning of a TCP or UDP header.
const portsLen = 4

// flowOf is the flow that a packet from the guest belongs to, or is an error about.
// A fragment must be the first of its datagram.
func flowOf(p *stack.Packet) flow {
	switch {
	case p.Proto == stack.ProtoTCP || p.Proto == stack.ProtoUDP:
		if len(p.Head) >= portsLen {
			return flow{p.Proto, netip.AddrPortFrom(p.Src, p.SrcPort()), netip.AddrPortFrom(p.Dst, p.DstPort())}
		}
	case !p.Fragment.More:
		if guest, outside, ok := p.QuotedTCP(); ok {
			return flow{stack.ProtoTCP, guest, outside}
		}
	}
	return flow{}
}

// owner is the number of the worker that a frame belongs to, given its Ethernet
// type and what follows the Ethernet header, in two pieces.
func (g *Group) owner(etherType tcpip.NetworkProtocolNumber, head, tail []byte) int {
	var p stack.Packet
	if !p.Parse(etherType, head, tail) {
		return 0
	}
	if p.Fragment.Offset > 0 {
		return g.fragments.owner(&p)
	}
	f := flowOf(&p)
	owner := g.rules.owner(&f)
	if owner != 0 && g.claims.count.Load() > 0 && g.claims.holds(&f) {
		owner = 0
	}
	if p.Fragment.More {
		g.fragments.first(&p, owner)
	}
	return owner
}

// rules say which worker a flow belongs to, apart from claims and fragments.
type rules struct {
	workers    uint64
	plan       addressing.Plan
	disableDNS bool
}

// owner is the worker of a flow.
func (r *rules) owner(f *flow) int {
	var h uint64
	switch {
	case f.proto == 0 || r.served(f):
		return 0
	case f.proto == stack.ProtoTCP:
		h = f.hash()
	default:
		h = hash(f.guest, 0)
	}
	worker, _ := bits.Mul64(h, r.workers)
	return int(worker)
}

// Ports of the services that live on worker 0: on the resolver's address; on the
// gateway's, and on multicast and broadcast addresses.
const (
	portDNS         = 53
	portDNSTLS      = 853 // leads to the resolver's first nameserver
	portDHCPServer  = 67
	portDHCP6Server = 547
)

// served reports whether the flow is for one of our own services.
func (r *rules) served(f *flow) bool {
	to := f.outside.Addr()
	switch {
	case r.plan.IsDNS(to) && (f.outside.Port() == portDNS || f.outside.Port() == portDNSTLS):
		return !r.disableDNS
	case f.proto != stack.ProtoUDP:
		return false
	case f.outside.Port() == portDHCPServer || f.outside.Port() == portDHCP6Server:
		return r.plan.IsGateway(to) || toMany(to)
	}
	return toMany(to)
}

// toMany reports whether a is a multicast address or, of IPv4, above: reserved
// ones and the broadcast address.
func toMany(a netip.Addr) bool {
	return a.IsMulticast() || a.Is4() && a.As4()[0] >= 224
}

// hash covers both endpoints. It needs no secret: a guest that chooses ports so
// that all flows meet in one worker slows only itself.
func (f *flow) hash() uint64 { return hash(f.outside, hash(f.guest, 0)) }

// hash multiplies and folds like wyhash, with its constants. The uppermost bits,
// which select the owner, depend on all input bits after the second round.
func hash(e netip.AddrPort, seed uint64) uint64 {
	var a, b uint64
	if e.Addr().Is4() {
		addr := e.Addr().As4()
		b = uint64(binary.LittleEndian.Uint32(addr[:]))
	} else {
		addr := e.Addr().As16()
		a, b = binary.LittleEndian.Uint64(addr[:8]), binary.LittleEndian.Uint64(addr[8:])
	}
	h := fold(b^seed^0xa0761d6478bd642f, a^uint64(e.Port())^0xe7037ed1a0b428db)
	return fold(h^0x8ebc6af09c88c6e3, uint64(e.Port())<<32^b^0x589965cc75374cc3)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
