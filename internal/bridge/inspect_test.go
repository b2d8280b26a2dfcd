package bridge

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/testnet"
)

// The network of these tests: member 0 sends, 1 and 2 are its neighbours.
var (
	me, you     = member(0), member(1)
	zero4       = netip.IPv4Unspecified()
	zero6       = netip.IPv6Unspecified()
	everybody4  = netip.MustParseAddr("255.255.255.255")
	allNodes    = netip.MustParseAddr("ff02::1")
	allRouters  = netip.MustParseAddr("ff02::2")
	outside4    = netip.MustParseAddr("198.51.100.7")
	outside6    = netip.MustParseAddr("2001:db8::7")
	myLinkLocal = me.slaac("fe80::/64")
)

func routerMulticast() [6]byte { return [6]byte{0x33, 0x33, 0, 0, 0, 2} }

// extended puts extension headers between the IPv6 header of a frame and what follows.
func extended(frame []byte, first uint8, extensions ...byte) []byte {
	f := bytes.Clone(frame[:14+40])
	extensions[0], f[14+6] = f[14+6], first
	size := len(frame) - 54 + len(extensions)
	f[14+4], f[14+5] = byte(size>>8), byte(size)
	return append(append(f, extensions...), frame[54:]...)
}

// hopByHop, destination and atomic are extension headers without content.
func hopByHop(frame []byte) []byte    { return extended(frame, 0, 0, 0, 1, 4, 0, 0, 0, 0) }
func destination(frame []byte) []byte { return extended(frame, 60, 0, 0, 1, 4, 0, 0, 0, 0) }
func atomic6(frame []byte) []byte     { return extended(frame, 44, make([]byte, 8)...) }

// TestHonestFramesArrive is the other half of TestLiesArriveNowhere: the same frames,
// in the sender's own name.
func TestHonestFramesArrive(t *testing.T) {
	plan := addressingtest.New(t)
	gateway := plan.MAC
	all := map[int]int{stackItself: 1, 1: 1, 2: 1}
	stackOnly, youOnly := map[int]int{stackItself: 1}, map[int]int{1: 1}
	for _, tc := range []struct {
		name  string
		frame []byte
		want  map[int]int
	}{
		{"IPv4 to the gateway", udp(0, gateway, at(me.IPv4, 9), at(outside4, 9)), stackOnly},
		{"IPv4 to a member", udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9)), youOnly},
		{"IPv4 to a member's MAC, for the gateway", udp(0, you.MAC, at(me.IPv4, 9), at(plan.Gateway, 9)), youOnly},
		{"IPv4 broadcast", udp(0, broadcast, at(me.IPv4, 9), at(everybody4, 9)), all},
		{"IPv6 to the gateway", udp(0, gateway, at(me.IPv6, 9), at(outside6, 9)), stackOnly},
		{"IPv6 to a member", udp(0, you.MAC, at(me.IPv6, 9), at(you.IPv6, 9)), youOnly},
		{"IPv6 multicast", udp(0, [6]byte{0x33, 0x33, 0, 0, 0, 1}, at(me.IPv6, 9), at(allNodes, 9)), all},
		{"IPv6 behind extension headers", destination(hopByHop(udp(0, you.MAC, at(me.IPv6, 9), at(you.IPv6, 9)))), youOnly},
		{"IPv6 in an atomic fragment", atomic6(udp(0, you.MAC, at(me.IPv6, 9), at(you.IPv6, 9))), youOnly},
		{"from the SLAAC address", udp(0, gateway, at(me.slaac("fd00::/64"), 9), at(outside6, 9)), stackOnly},
		{"from the link-local address", udp(0, you.MAC, at(myLinkLocal, 9), at(you.IPv6, 9)), youOnly},
		{"from another link-local address", udp(0, you.MAC, at(netip.MustParseAddr("fe80::abcd"), 9), at(you.IPv6, 9)), youOnly},
		{"DHCP discovery", udp(0, broadcast, at(zero4, 68), at(everybody4, 67)), stackOnly},
		{"DHCP renewal", udp(0, gateway, at(me.IPv4, 68), at(plan.Gateway, 67)), stackOnly},
		{"DHCP discovery to a member", udp(0, you.MAC, at(zero4, 68), at(everybody4, 67)), nil},
		{"router solicitation to a member", ethernet(me.MAC, you.MAC, testnet.ICMP(zero6, allRouters, 133, 0, make([]byte, 4))), nil},
		{"DHCPv6 solicitation", udp(0, [6]byte{0x33, 0x33, 0, 1, 0, 2}, at(myLinkLocal, 546), at(netip.MustParseAddr("ff02::1:2"), 547)), stackOnly},
		{"router solicitation", ethernet(me.MAC, routerMulticast(), testnet.ICMP(myLinkLocal, allRouters, 133, 0, append(make([]byte, 4), linkLayer(1, me.MAC)...))), stackOnly},
		{"router solicitation without an address", ethernet(me.MAC, routerMulticast(), testnet.ICMP(zero6, allRouters, 133, 0, make([]byte, 4))), stackOnly},
		{"multicast listener report", hopByHop(ethernet(me.MAC, [6]byte{0x33, 0x33, 0, 0, 0, 0x16}, testnet.ICMP(zero6, netip.MustParseAddr("ff02::16"), 143, 0, make([]byte, 4)))), all},
		{"ping", ethernet(me.MAC, you.MAC, testnet.Echo(me.IPv6, you.IPv6, 1, 1, 64, nil)), youOnly},
		{"ARP for the gateway", testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, plan.Gateway), stackOnly},
		{"ARP for a member", testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, you.IPv4), youOnly},
		{"ARP for nobody", testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, netip.MustParseAddr("10.0.2.200")), nil},
		{"ARP answer", ethernet(me.MAC, you.MAC, testnet.ARP(2, me.MAC, me.IPv4, you.MAC, you.IPv4)), youOnly},
		{"ARP announcement", testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, me.IPv4), all},
		{"ARP probe", testnet.ARP(1, me.MAC, zero4, [6]byte{}, me.IPv4), all},
		{"ARP probe of the gateway", testnet.ARP(1, me.MAC, zero4, [6]byte{}, plan.Gateway), stackOnly},
		{"solicitation of the gateway", solicitation(0, me.IPv6, plan.Gateway6, linkLayer(1, me.MAC)...), stackOnly},
		{"solicitation of a member", solicitation(0, me.IPv6, you.IPv6, linkLayer(1, me.MAC)...), youOnly},
		{"solicitation of a member's SLAAC address", solicitation(0, me.IPv6, you.slaac("fd00::/64"), linkLayer(1, me.MAC)...), youOnly},
		{"solicitation of a member's link-local address", solicitation(0, myLinkLocal, you.slaac("fe80::/64"), linkLayer(1, me.MAC)...), youOnly},
		{"solicitation of nobody", solicitation(0, me.IPv6, netip.MustParseAddr("fd00::abcd"), linkLayer(1, me.MAC)...), nil},
		{"duplicate address detection", solicitation(0, zero6, me.IPv6, 14, 1, 1, 2, 3, 4, 5, 6), all},
		{"duplicate address detection of the gateway's", solicitation(0, zero6, plan.Gateway6), stackOnly},
		{"advertisement", ethernet(me.MAC, you.MAC, ndp(0, me.IPv6, you.IPv6, 136, me.IPv6, linkLayer(2, me.MAC)...)), youOnly},
		{"advertisement to all", ndp(0, myLinkLocal, allNodes, 136, myLinkLocal, linkLayer(2, me.MAC)...), all},
		{"unknown destination", udp(0, [6]byte{2, 0, 0, 0, 0, 9}, at(me.IPv4, 9), at(you.IPv4, 9)), nil},
		{"its own destination", udp(0, me.MAC, at(me.IPv4, 9), at(me.IPv4, 9)), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNetwork(t, 3, Config{})
			if got := n.send(0, tc.frame); !same(got, tc.want) {
				t.Errorf("got by %v, want %v", got, tc.want)
			}
			want := Stats{FromFrames: 1, FromBytes: uint64(len(tc.frame))}
			if tc.want == nil {
				want.Other = 1
			}
			if got := n.ports[0].Stats(); got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
			if tc.want[1] == 1 {
				if got := n.ports[1].Stats(); got != (Stats{ToFrames: 1, ToBytes: uint64(len(tc.frame))}) {
					t.Errorf("its receiver counted %+v", got)
				}
			}
		})
	}
}

// lies are frames of member 0 that are not in its own name, each to the destinations
// where it would do harm.
func lies(t testing.TB) map[string][]byte {
	plan := addressingtest.New(t)
	gateway := plan.MAC
	own := linkLayer(1, me.MAC)
	advert := testnet.ICMP(plan.GatewayLinkLocal, allNodes, 134, 0, make([]byte, 12))
	lies := map[string][]byte{
		"a neighbour's MAC":            ethernet(you.MAC, gateway, udp(0, gateway, at(me.IPv4, 9), at(outside4, 9))),
		"the gateway's MAC":            ethernet(gateway, you.MAC, udp(0, gateway, at(me.IPv4, 9), at(you.IPv4, 9))),
		"the gateway's MAC and IP":     ethernet(gateway, you.MAC, udp(0, gateway, at(plan.Gateway, 9), at(you.IPv4, 9))),
		"the gateway's MAC, broadcast": ethernet(gateway, broadcast, udp(0, gateway, at(plan.Gateway, 9), at(everybody4, 9))),
		"a multicast MAC":              ethernet(broadcast, gateway, udp(0, gateway, at(me.IPv4, 9), at(outside4, 9))),
		"the gateway's ARP":            testnet.ARP(2, gateway, plan.Gateway, you.MAC, you.IPv4),

		"ARP in a neighbour's name":                 testnet.ARP(2, me.MAC, you.IPv4, gateway, plan.Gateway),
		"ARP in the gateway's name":                 ethernet(me.MAC, you.MAC, testnet.ARP(2, me.MAC, plan.Gateway, you.MAC, you.IPv4)),
		"ARP request in a neighbour's name":         testnet.ARP(1, me.MAC, you.IPv4, [6]byte{}, plan.Gateway),
		"ARP request in the gateway's name":         testnet.ARP(1, me.MAC, plan.Gateway, [6]byte{}, you.IPv4),
		"gratuitous ARP for a neighbour":            testnet.ARP(1, me.MAC, you.IPv4, [6]byte{}, you.IPv4),
		"ARP with a neighbour's hardware address":   ethernet(me.MAC, broadcast, testnet.ARP(1, you.MAC, me.IPv4, [6]byte{}, plan.Gateway)),
		"ARP answer with the gateway's":             ethernet(me.MAC, you.MAC, testnet.ARP(2, gateway, me.IPv4, you.MAC, you.IPv4)),
		"ARP answer from 0.0.0.0":                   testnet.ARP(2, me.MAC, zero4, you.MAC, you.IPv4),
		"ARP probe that denies a neighbour":         testnet.ARP(1, me.MAC, zero4, [6]byte{}, you.IPv4),
		"ARP of another operation":                  testnet.ARP(3, me.MAC, me.IPv4, [6]byte{}, you.IPv4),
		"DAD that denies a neighbour":               solicitation(0, zero6, you.IPv6),
		"DAD that denies a link-local address":      solicitation(0, zero6, you.slaac("fe80::/64")),
		"DAD with an option":                        solicitation(0, zero6, me.IPv6, linkLayer(1, you.MAC)...),
		"solicitation from a neighbour":             solicitation(0, you.IPv6, plan.Gateway6, own...),
		"solicitation with a neighbour's option":    solicitation(0, me.IPv6, plan.Gateway6, linkLayer(1, you.MAC)...),
		"solicitation with two options":             solicitation(0, me.IPv6, plan.Gateway6, append(linkLayer(1, me.MAC), linkLayer(1, you.MAC)...)...),
		"solicitation with a long option":           solicitation(0, me.IPv6, you.IPv6, append([]byte{1, 2}, make([]byte, 14)...)...),
		"solicitation with an empty option":         solicitation(0, me.IPv6, you.IPv6, append([]byte{1, 0}, make([]byte, 6)...)...),
		"solicitation with half an option":          solicitation(0, me.IPv6, you.IPv6, 1, 1, 2, 3),
		"router solicitation with a foreign option": ethernet(me.MAC, routerMulticast(), testnet.ICMP(myLinkLocal, allRouters, 133, 0, append(make([]byte, 4), linkLayer(1, you.MAC)...))),

		"advertisement of a neighbour":             ndp(0, me.IPv6, allNodes, 136, you.IPv6, linkLayer(2, me.MAC)...),
		"advertisement of the gateway":             ndp(0, me.IPv6, allNodes, 136, plan.Gateway6, linkLayer(2, me.MAC)...),
		"advertisement of its link-local address":  ndp(0, me.IPv6, allNodes, 136, plan.GatewayLinkLocal, linkLayer(2, me.MAC)...),
		"advertisement of one's link-local":        ndp(0, me.IPv6, allNodes, 136, you.slaac("fe80::/64"), linkLayer(2, me.MAC)...),
		"advertisement with a neighbour's address": ndp(0, me.IPv6, allNodes, 136, me.IPv6, linkLayer(2, you.MAC)...),
		"advertisement from nowhere":               ndp(0, zero6, allNodes, 136, me.IPv6, linkLayer(2, me.MAC)...),

		"router advertisement":                ethernet(me.MAC, [6]byte{0x33, 0x33, 0, 0, 0, 1}, testnet.ICMP(myLinkLocal, allNodes, 134, 0, make([]byte, 12))),
		"router advertisement as the gateway": ethernet(me.MAC, [6]byte{0x33, 0x33, 0, 0, 0, 1}, bytes.Clone(advert)),
		"router advertisement to one":         ethernet(me.MAC, you.MAC, testnet.ICMP(myLinkLocal, you.slaac("fe80::/64"), 134, 0, make([]byte, 12))),
		"redirect":                            ethernet(me.MAC, you.MAC, testnet.ICMP(myLinkLocal, you.IPv6, 137, 0, make([]byte, 36))),
		"echo from nowhere":                   ethernet(me.MAC, [6]byte{0x33, 0x33, 0, 0, 0, 1}, testnet.Echo(zero6, allNodes, 1, 1, 64, nil)),
		"listener's query from nowhere":       ethernet(me.MAC, [6]byte{0x33, 0x33, 0, 0, 0, 1}, testnet.ICMP(zero6, allNodes, 130, 0, make([]byte, 20))),
		"DHCP offer":                          udp(0, broadcast, at(me.IPv4, 67), at(everybody4, 68)),
		"DHCP offer to one":                   udp(0, you.MAC, at(me.IPv4, 67), at(you.IPv4, 68)),
		"DHCP offer from another port":        udp(0, you.MAC, at(me.IPv4, 6767), at(you.IPv4, 68)),
		"DHCPv6 advertisement":                udp(0, you.MAC, at(myLinkLocal, 547), at(you.slaac("fe80::/64"), 546)),
		"DHCP discovery in fragments":         ethernet(me.MAC, broadcast, testnet.Packet{Src: zero4, Dst: everybody4, Proto: 17, More: true, Payload: testnet.Datagram(at(zero4, 68), at(everybody4, 67), make([]byte, 8))}.Frame()),
		"UDP from 0.0.0.0":                    udp(0, broadcast, at(zero4, 9), at(everybody4, 67)),
		"TCP from 0.0.0.0":                    ethernet(me.MAC, gateway, testnet.SYN(at(zero4, 68), at(outside4, 67), 1)),
		"UDP from ::":                         udp(0, gateway, at(zero6, 546), at(outside6, 547)),
	}
	for name, src := range map[string]netip.Addr{
		"a neighbour": you.IPv4, "the gateway": plan.Gateway, "the resolver": plan.DNS, "an address that nobody has": netip.MustParseAddr("10.0.2.200"),
		"outside": outside4, "loopback": netip.MustParseAddr("127.0.0.1"), "broadcast": everybody4,
		"a neighbour's IPv6": you.IPv6, "a neighbour's SLAAC": you.slaac("fd00::/64"), "a neighbour's link-local": you.slaac("fe80::/64"),
		"the gateway's IPv6": plan.Gateway6, "the gateway's link-local": plan.GatewayLinkLocal, "the resolver's link-local": plan.DNSLinkLocal,
		"an IPv6 address that nobody has": netip.MustParseAddr("fd00::abcd"), "IPv6 outside": outside6, "IPv6 loopback": netip.IPv6Loopback(),
		"IPv6 multicast": allNodes, "IPv4 in IPv6": netip.MustParseAddr("::ffff:10.0.2.101"),
	} {
		dst := you.IPv4
		if src.Is6() {
			dst = you.IPv6
		}
		lies["UDP from "+name] = udp(0, you.MAC, at(src, 9), at(dst, 9))
		lies["UDP to the gateway from "+name] = udp(0, gateway, at(src, 9), at(dst, 9))
		lies["TCP from "+name] = ethernet(me.MAC, you.MAC, testnet.SYN(at(src, 9), at(dst, 9), 1))
		lies["ping from "+name] = ethernet(me.MAC, you.MAC, testnet.Echo(src, dst, 1, 1, 64, nil))
		lies["protocol 132 from "+name] = ethernet(me.MAC, you.MAC, testnet.Packet{Src: src, Dst: dst, Proto: 132, Payload: make([]byte, 20)}.Frame())
		lies["the last fragment from "+name] = ethernet(me.MAC, you.MAC, testnet.Packet{Src: src, Dst: dst, Proto: 17, Offset: 800, Payload: make([]byte, 20)}.Frame())
		lies["the first fragment from "+name] = ethernet(me.MAC, you.MAC, testnet.Packet{Src: src, Dst: dst, Proto: 17, More: true, Payload: make([]byte, 16)}.Frame())
	}
	for name, f := range maps.Clone(lies) {
		if f[12] != 0x86 || len(f) < 54 {
			continue
		}
		lies[name+", behind hop-by-hop options"] = hopByHop(f)
		lies[name+", behind destination options"] = destination(f)
		lies[name+", behind many"] = destination(destination(hopByHop(f)))
		lies[name+", in an atomic fragment"] = atomic6(f)
		lies[name+", in an atomic fragment with options"] = atomic6(destination(f))
		lies[name+", behind a routing header"] = extended(f, 43, make([]byte, 8)...)
	}
	lies["neighbour discovery in a fragment"] = atomic6(solicitation(0, me.IPv6, you.IPv6, own...)) // RFC 6980
	return lies
}

// What is not in its sender's own name reaches nobody, and is counted.
func TestLiesArriveNowhere(t *testing.T) {
	for name, frame := range lies(t) {
		n := newNetwork(t, 3, Config{})
		if got := n.send(0, frame); len(got) > 0 {
			t.Errorf("%s: got by %v\n%x", name, got, frame)
		}
		s := n.ports[0].Stats()
		malformed := strings.Contains(name, "protocol 132") || strings.Contains(name, "fragment from") && strings.Contains(name, "atomic") // too
		if s.FromFrames != 1 || s.Spoofed+s.Other != 1 || s.Spoofed == 0 && !malformed {
			t.Errorf("%s: counted %+v", name, s)
		}
	}
}

// Neighbour discovery and DHCP in pieces are what a filter of first fragments misses.
func TestLiesInFragmentsArriveNowhere(t *testing.T) {
	advert := testnet.Packet{SrcMAC: me.MAC, DstMAC: you.MAC, Src: myLinkLocal, Dst: you.slaac("fe80::/64"), Proto: 58, TTL: 255, ID: 7}
	advert.Payload = testnet.ICMPMessage(advert.Src, advert.Dst, 134, 0, make([]byte, 60))
	solicit := advert
	target := you.IPv6.As16()
	solicit.Payload = testnet.ICMPMessage(advert.Src, advert.Dst, 135, 0, append(append(make([]byte, 4), target[:]...), append([]byte{14, 5}, make([]byte, 38)...)...))
	behind := advert // its chain of headers ends in the second fragment
	behind.Proto, behind.Payload = 60, append([]byte{58, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, advert.Payload...)
	long := behind // and this one where the first fragment does
	long.Payload = append([]byte{58, 0, 1, 4, 0, 0, 0, 0}, advert.Payload...)
	offer := advert
	offer.Proto, offer.Payload = 17, testnet.Datagram(at(advert.Src, 547), at(advert.Dst, 546), make([]byte, 64))
	offer4 := testnet.Packet{SrcMAC: me.MAC, DstMAC: you.MAC, Src: me.IPv4, Dst: you.IPv4, Proto: 17, ID: 7}
	offer4.Payload = testnet.Datagram(at(me.IPv4, 67), at(you.IPv4, 68), make([]byte, 64))
	for name, p := range map[string]testnet.Packet{
		"router advertisement": advert, "solicitation": solicit, "options over the cut": behind, "options up to the cut": long,
		"DHCPv6": offer, "DHCP": offer4,
	} {
		for _, piece := range []int{8, 16, 40} {
			mtu := 20 + piece
			if p.Src.Is6() {
				mtu = 48 + piece
			}
			n := newNetwork(t, 3, Config{})
			for i, f := range p.Fragments(mtu) {
				got := n.send(0, f)
				if i == 0 && len(got) > 0 {
					t.Errorf("%s in pieces of %d: the first was got by %v", name, piece, got)
				}
			}
		}
	}
	honest := offer4
	honest.Payload = testnet.Datagram(at(me.IPv4, 9), at(you.IPv4, 9), make([]byte, 64))
	n := newNetwork(t, 3, Config{})
	frames := honest.Fragments(60)
	if got := n.send(0, frames...); !same(got, map[int]int{1: len(frames)}) {
		t.Errorf("of %d honest fragments got %v", len(frames), got)
	}
}

// What is checked must not be what the next kernel overwrites.
func TestChecksumsToFillIn(t *testing.T) {
	plan := addressingtest.New(t)
	datagram := udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9))
	for _, tc := range []struct {
		name          string
		frame         []byte
		start, offset uint16
		passes        bool
	}{
		{"UDP's own", datagram, 34, 6, true},
		{"one further in", datagram, 34, 7, true},
		{"the ports", datagram, 34, 2, false},
		{"the source address", datagram, 14, 12, false},
		{"the Ethernet source", datagram, 0, 6, false},
		{"ARP", testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, you.IPv4), 14, 14, false},
		{"neighbour discovery", solicitation(0, me.IPv6, you.IPv6), 54, 2, false},
		{"neighbour discovery's option", solicitation(0, me.IPv6, plan.Gateway6, linkLayer(1, me.MAC)...), 54, 26, false},
	} {
		n := newNetwork(t, 2, Config{})
		n.devs[0].InjectVNet(testnet.VNetHdr{Flags: testnet.NeedsCsum, CsumStart: tc.start, CsumOffset: tc.offset}, tc.frame)
		n.turn()
		if got := len(n.devs[1].Sent()) + len(n.reader.got); got != map[bool]int{true: 1}[tc.passes] {
			t.Errorf("%s: got by %d", tc.name, got)
		}
	}
}

// Kinds of frames that are not carried, and frames that are none.
func TestOtherFramesAreDropped(t *testing.T) {
	vlan := udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9))
	vlan = append(append(bytes.Clone(vlan[:12]), 0x81, 0, 0, 1), vlan[12:]...)
	cut := udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9))
	for name, f := range map[string][]byte{
		"VLAN":            vlan,
		"spanning tree":   append(ethernet(me.MAC, [6]byte{1, 0x80, 0xc2}, make([]byte, 12)), 0, 38, 0x42, 0x42, 3, 0, 0, 0, 0, 0),
		"EtherType 88b5":  append(ethernet(me.MAC, broadcast, make([]byte, 12)), 0x88, 0xb5, 1, 2, 3, 4),
		"only Ethernet":   ethernet(me.MAC, you.MAC, make([]byte, 14)),
		"half a packet":   cut[:len(cut)-3],
		"half an ARP":     testnet.ARP(1, me.MAC, me.IPv4, [6]byte{}, you.IPv4)[:30],
		"half a datagram": ethernet(me.MAC, you.MAC, testnet.Packet{Src: me.IPv4, Dst: you.IPv4, Proto: 17, Payload: make([]byte, 7)}.Frame()),
		"half an ICMPv6":  ethernet(me.MAC, you.MAC, testnet.Packet{Src: me.IPv6, Dst: you.IPv6, Proto: 58, Payload: make([]byte, 7)}.Frame()),
		"IPv6 in IPv6":    ethernet(me.MAC, you.MAC, testnet.Packet{Src: me.IPv6, Dst: you.IPv6, Proto: 41, Payload: make([]byte, 60)}.Frame()),
		"a far solicitation": ethernet(me.MAC, you.MAC, testnet.Packet{Src: me.IPv6, Dst: you.IPv6, Proto: 58, TTL: 64,
			Payload: testnet.ICMPMessage(me.IPv6, you.IPv6, 135, 0, make([]byte, 20))}.Frame()),
	} {
		n := newNetwork(t, 3, Config{})
		if got := n.send(0, f); len(got) > 0 {
			t.Errorf("%s: got by %v", name, got)
		}
		if s := n.ports[0].Stats(); s.Spoofed > 0 || name != "only Ethernet" && s.Other != 1 {
			t.Errorf("%s: counted %+v", name, s)
		}
	}
}

func TestNoIPv6WithoutItsSubnet(t *testing.T) {
	n := newNetwork(t, 2, Config{Plan: addressingtest.IPv4Only(t)})
	if got := n.send(0, udp(0, you.MAC, at(myLinkLocal, 9), at(you.slaac("fe80::/64"), 9))); len(got) > 0 {
		t.Errorf("got by %v", got)
	}
	if got := n.send(0, udp(0, you.MAC, at(me.IPv4, 9), at(you.IPv4, 9))); got[1] != 1 {
		t.Errorf("IPv4 was got by %v", got)
	}
}

// One line for each member, that says who it is.
func TestSpoofersAreNamedOnce(t *testing.T) {
	var log bytes.Buffer
	n := newNetwork(t, 3, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 5 {
		n.send(0, udp(0, you.MAC, at(outside4, 9), at(you.IPv4, 9)))
		n.send(1, udp(1, me.MAC, at(outside4, 9), at(you.IPv4, 9)))
	}
	for _, a := range []Address{me, you} {
		if got := strings.Count(log.String(), fmt.Sprint("member=", a.IPv4, " ")); got != 1 {
			t.Errorf("%v is named %d times:\n%s", a.IPv4, got, log.String())
		}
	}
}
