package bridge

import (
	"bytes"
	"math"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/stack"
)

// kind is how the bridge treats a frame.
type kind uint8

const (
	ordinary   kind = iota // goes where its Ethernet destination says
	question               // asks who has an address, the frame's target
	forGateway             // a request, mostly to everybody, that only the gateway answers
	spoofed                // uses an address that is not its sender's
	malformed              // or of a kind that is not carried
)

const (
	portDHCPServer, portDHCPClient   = 67, 68
	portDHCP6Server, portDHCP6Client = 547, 546
	// checkedTransport is how much of a transport header is checked: the ports.
	checkedTransport = 4
)

// inspect parses a frame that a member has sent, and returns its kind.
func (b *Bridge) inspect(t *table, p *Port, f *frame) kind {
	if f.src() != p.addr.MAC {
		return spoofed
	}
	switch typ := f.eth.Type(); {
	case typ == header.ARPProtocolNumber:
		return b.inspectARP(p, f)
	case typ == header.IPv6ProtocolNumber && !b.cfg.Plan.IPv6():
		return malformed
	default:
		f.pkt = stack.Packet{}
		if !f.pkt.Parse(typ, f.head, f.tail) || f.filledBefore(f.pkt.HeaderLen()+checkedTransport) {
			return malformed
		}
	}
	switch {
	case f.pkt.Proto == stack.ProtoUDP && f.pkt.Fragment.Offset == 0 && len(f.pkt.Head) < header.UDPMinimumSize:
		return malformed // RFC 7112 section 5; no kernel sends it
	case f.toDHCPClient():
		return spoofed
	case f.pkt.Src.Is4():
		return f.inspectIPv4(p)
	case f.pkt.Proto == stack.ProtoICMPv6 && f.pkt.Fragment.Offset == 0:
		return b.inspectICMPv6(t, p, f)
	case !t.owns6(p, f.pkt.Src):
		return spoofed
	case f.isUDP(portDHCP6Client, portDHCP6Server):
		return forGateway
	}
	return ordinary
}

// isUDP reports whether the frame has the UDP header of a datagram between two ports.
func (f *frame) isUDP(from, to uint16) bool {
	p := &f.pkt
	return p.Proto == stack.ProtoUDP && p.Fragment.Offset == 0 && p.SrcPort() == from && p.DstPort() == to
}

// toDHCPClient reports whether a DHCP client would take the frame for a server's
// message. Some clients check only their own port.
func (f *frame) toDHCPClient() bool {
	p := &f.pkt
	if p.Proto != stack.ProtoUDP || p.Fragment.Offset > 0 {
		return false
	}
	return p.DstPort() == portDHCPClient && p.Src.Is4() || p.DstPort() == portDHCP6Client && p.Src.Is6()
}

func (b *Bridge) inspectARP(p *Port, f *frame) kind {
	a := header.ARP(f.head)
	if !a.IsValid() || f.filledBefore(math.MaxInt) {
		return malformed
	}
	if [6]byte(a.HardwareAddressSender()) != p.addr.MAC {
		return spoofed
	}
	sender := netip.AddrFrom4([4]byte(a.ProtocolAddressSender()))
	f.target = netip.AddrFrom4([4]byte(a.ProtocolAddressTarget()))
	switch own := sender == p.addr.IPv4; {
	case a.Op() == header.ARPReply && own:
		return ordinary
	case a.Op() != header.ARPRequest:
		return spoofed
	case own:
		return question
	case sender.IsUnspecified() && (f.target == p.addr.IPv4 || b.cfg.Plan.IsOwn(f.target)):
		return question
	}
	return spoofed
}

func (f *frame) inspectIPv4(p *Port) kind {
	own := f.pkt.Src == p.addr.IPv4
	asks := f.isUDP(portDHCPClient, portDHCPServer)
	switch {
	case asks && (own || f.pkt.Src.IsUnspecified() && !f.pkt.Fragment.Present):
		return forGateway
	case own:
		return ordinary
	}
	return spoofed
}

// inspectICMPv6 is for messages of which the frame has the beginning.
func (b *Bridge) inspectICMPv6(t *table, p *Port, f *frame) kind {
	pkt, h := &f.pkt, header.ICMPv6(f.pkt.Head)
	if len(h) < header.ICMPv6MinimumSize || f.filledBefore(math.MaxInt) {
		return malformed
	}
	typ := h.Type()
	discovery := typ >= header.ICMPv6RouterSolicit && typ <= header.ICMPv6RedirectMsg
	nobody := pkt.Src.IsUnspecified()
	switch {
	case typ == header.ICMPv6RouterAdvert || typ == header.ICMPv6RedirectMsg:
		return spoofed
	case pkt.Fragment.Present && (discovery || nobody): // RFC 6980 section 5
		return spoofed
	case !nobody && !t.owns6(p, pkt.Src):
		return spoofed
	case discovery:
		return b.inspectNDP(t, p, f, h)
	case !nobody || typ == header.ICMPv6MulticastListenerReport || typ == header.ICMPv6MulticastListenerDone || typ == header.ICMPv6MulticastListenerV2Report:
		return ordinary
	}
	return spoofed
}

// inspectNDP is for neighbour discovery from a source that is the member's own, or the
// unspecified address.
func (b *Bridge) inspectNDP(t *table, p *Port, f *frame, h header.ICMPv6) kind {
	pkt, size := &f.pkt, header.ICMPv6MinimumSize
	if h.Type() != header.ICMPv6RouterSolicit {
		size = header.ICMPv6NeighborSolicitMinimumSize // the advertisement's, too
	}
	if len(h) < size || len(pkt.Tail) > 0 || pkt.TTL != header.NDPHopLimit || h.Code() != 0 { // RFC 4861 sections 6.1 and 7.1
		return malformed
	}
	if !ownLinkLayerAddress(h[size:], p.addr.MAC) {
		return spoofed
	}
	if h.Type() == header.ICMPv6RouterSolicit {
		return forGateway
	}
	f.target = netip.AddrFrom16([16]byte(h[size-16 : size]))
	own := t.owns6(p, f.target)
	switch {
	case h.Type() == header.ICMPv6NeighborAdvert && own && !pkt.Src.IsUnspecified():
		return ordinary
	case h.Type() == header.ICMPv6NeighborAdvert:
		return spoofed
	case !pkt.Src.IsUnspecified() || own:
		return question
	case b.cfg.Plan.IsOwn(f.target): // answered to all nodes
		return forGateway
	}
	return spoofed
}

// ownLinkLayerAddress reports whether options of neighbour discovery are well-formed,
// and name no link-layer address but mac.
func ownLinkLayerAddress(options []byte, mac [6]byte) bool {
	const unit, source, target = 8, 1, 2 // RFC 4861 sections 4.6 and 4.6.1
	for len(options) > 0 {
		if len(options) < unit || options[1] == 0 || unit*int(options[1]) > len(options) {
			return false
		}
		option := options[:unit*int(options[1])]
		if (option[0] == source || option[0] == target) && !bytes.Equal(option[2:], mac[:]) {
			return false
		}
		options = options[len(option):]
	}
	return true
}
