package stack

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// maxNeighbors bounds the table of guests behind other Ethernet addresses than
// the TAP's own; beyond it all of them are forgotten and learned again. A
// bridge of containers inside one guest has tens.
const maxNeighbors = 1024

// neighbors tells which Ethernet address a guest address is behind. There is
// only one in nearly all cases, the TAP's, and then the table stays empty.
// Machines that a guest bridges onto the TAP are learned from what they send.
//
// Where all are known beforehand, ask is set (Config.Neighbors), and nothing is
// learned.
type neighbors struct {
	ask   func(netip.Addr) ([6]byte, bool)
	self  atomic.Uint64 // the TAP's own address in the low 48 bits
	extra atomic.Int32  // len(table), read without the lock

	forgotten atomic.Uint64 // times that the table was full

	mu    sync.Mutex
	table map[netip.Addr][6]byte // guarded by mu
}

func pack(mac [6]byte) uint64 {
	var b [8]byte
	copy(b[2:], mac[:])
	return binary.BigEndian.Uint64(b[:])
}

func unpack(v uint64) (mac [6]byte) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	copy(mac[:], b[2:])
	return mac
}

func (n *neighbors) lookup(a netip.Addr) [6]byte {
	switch {
	case a == LimitedBroadcast():
		return [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	case a.Is6() && a.IsMulticast(): // RFC 2464 section 7
		b := a.As16()
		return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
	case n.ask != nil:
		if mac, ok := n.ask(a); ok {
			return mac
		}
		return [6]byte{} // nobody's
	}
	if n.extra.Load() > 0 {
		n.mu.Lock()
		mac, ok := n.table[a]
		n.mu.Unlock()
		if ok {
			return mac
		}
	}
	return unpack(n.self.Load())
}

// learn notes that a sends from mac. Called for every frame, so the common
// case is one comparison.
func (n *neighbors) learn(a netip.Addr, mac [6]byte) {
	v := pack(mac)
	self := n.self.Load()
	if n.ask != nil || v == self && n.extra.Load() == 0 || mac[0]&1 != 0 || !a.IsValid() || a.IsUnspecified() {
		return
	}
	if self == 0 {
		n.self.Store(v)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if v == self {
		delete(n.table, a)
	} else {
		if len(n.table) >= maxNeighbors {
			n.table = nil
			n.forgotten.Add(1)
		}
		if n.table == nil {
			n.table = make(map[netip.Addr][6]byte)
		}
		n.table[a] = mac
	}
	n.extra.Store(int32(len(n.table)))
}

// known reports whether an address was learned to be behind another Ethernet address than
// the TAP's own.
func (n *neighbors) known(a netip.Addr) bool {
	if n.extra.Load() == 0 {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.table[a]
	return ok
}

// answers reports whether we answer a question for the owner of target; probe says that the
// asker only tests whether the address is free. A guest that probes for a free address must
// find one, and addresses that the guest has, or forwards for, are not outside.
func (s *Stack) answers(target netip.Addr, probe bool) bool {
	if s.plan.Holds(target) {
		return true
	}
	return !probe && s.plan.Answers(target) && target != s.guest.own4 && target != s.guest.own6 && !s.neigh.known(target)
}

// handleARP answers requests for the IPv4 addresses that are behind us (RFC 826).
func (s *Stack) handleARP(frame []byte) {
	a := header.ARP(frame)
	if !a.IsValid() || a.Op() != header.ARPRequest || !s.plan.IPv4() {
		return
	}
	target := netip.AddrFrom4([4]byte(a.ProtocolAddressTarget()))
	sender := netip.AddrFrom4([4]byte(a.ProtocolAddressSender()))
	if s.plan.Holds(sender) {
		return
	}
	mac := [6]byte(a.HardwareAddressSender())
	s.learnGuest4(sender, mac)
	if sender == target || !s.answers(target, sender.IsUnspecified()) {
		return
	}
	s.neigh.learn(sender, mac)
	b := s.out.head[:header.EthernetMinimumSize+header.ARPSize]
	putEthernet(b, s.out.mac, mac, header.ARPProtocolNumber)
	r := header.ARP(b[header.EthernetMinimumSize:])
	r.SetIPv4OverEthernet()
	r.SetOp(header.ARPReply)
	copy(r.HardwareAddressSender(), s.out.mac[:])
	copy(r.ProtocolAddressSender(), a.ProtocolAddressTarget())
	copy(r.HardwareAddressTarget(), mac[:])
	copy(r.ProtocolAddressTarget(), a.ProtocolAddressSender())
	s.out.hdr = virtioHdr{}
	s.out.write(b, nil, nil)
}

// handleNDP answers solicitations for the addresses that are behind us. It reports whether p
// was a message of neighbour discovery, answered or not: none goes further.
func (s *Stack) handleNDP(p *Packet) bool {
	h := header.ICMPv6(p.Head)
	if h.Type() < header.ICMPv6RouterSolicit || h.Type() > header.ICMPv6RedirectMsg {
		return false
	}
	if p.TTL != header.NDPHopLimit || h.Code() != 0 || len(p.Tail) > 0 { // RFC 4861 sections 6.1 and 7.1
		return true
	}
	s.learnGuest6(p, h)
	if s.disableNDP {
		return true
	}
	switch h.Type() {
	case header.ICMPv6RouterSolicit:
		s.SendRouterAdvertisement()
	case header.ICMPv6NeighborSolicit:
		if len(h) >= header.ICMPv6NeighborSolicitMinimumSize {
			s.answerSolicitation(p, addrFrom(header.NDPNeighborSolicit(h.MessageBody()).TargetAddress()))
		}
	}
	return true
}

func (s *Stack) answerSolicitation(p *Packet, target netip.Addr) {
	if target == p.Src || !s.answers(target, p.Src.IsUnspecified()) {
		return
	}
	options := header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(s.out.mac[:])}
	h := header.ICMPv6(make([]byte, header.ICMPv6NeighborAdvertMinimumSize+options.Length()))
	h.SetType(header.ICMPv6NeighborAdvert)
	advert := header.NDPNeighborAdvert(h.MessageBody())
	advert.SetOverrideFlag(true)
	advert.SetRouterFlag(s.plan.IsGateway(target))
	advert.SetTargetAddress(address(target))
	advert.Options().Serialize(options)
	dst := p.Src
	if dst.IsUnspecified() { // duplicate address detection: tell everybody
		dst = netip.IPv6LinkLocalAllNodes()
	} else {
		advert.SetSolicitedFlag(true)
	}
	s.SendICMP(target, dst, header.NDPHopLimit, h)
}

// SendRouterAdvertisement sends the advertisement of the Config to all nodes
// of the guest's link, from the gateway's link-local address.
func (s *Stack) SendRouterAdvertisement() {
	if len(s.advertisement) > 0 && s.plan.IPv6() {
		s.SendICMP(s.plan.GatewayLinkLocal, netip.IPv6LinkLocalAllNodes(), header.NDPHopLimit, s.advertisement)
	}
}
