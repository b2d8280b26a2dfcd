package stack_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

var broadcastMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func TestARPIsAnsweredForOwnAddressesOnly(t *testing.T) {
	devices(t, func(t *testing.T, d testnet.DeviceConfig) {
		s := newSeam(t, seamConfig{device: d})
		mac := s.plan.MAC
		for last := range 256 {
			target := netip.AddrFrom4([4]byte{10, 0, 2, byte(last)})
			sent := s.feed(testnet.ARP(1, testnet.GuestMAC(), guest4.Addr(), [6]byte{}, target))
			if !s.plan.IsOwn(target) {
				if len(sent) > 0 {
					t.Errorf("ARP for %v was answered", target)
				}
				continue
			}
			want := testnet.ARP(2, mac, target, testnet.GuestMAC(), guest4.Addr())
			if len(sent) != 1 || !bytes.Equal(sent[0].Payload, want[14:]) || sent[0].DstMAC != testnet.GuestMAC() || sent[0].SrcMAC != mac {
				t.Errorf("ARP for %v: sent %+v", target, sent)
			}
		}
		if s.handled() > 0 {
			t.Error("ARP reached the handler")
		}
	})
}

func TestARPThatIsNoQuestion(t *testing.T) {
	s := newSeam(t, seamConfig{})
	gw, guest := s.plan.Gateway, guest4.Addr()
	s.silent("a reply", testnet.ARP(2, testnet.GuestMAC(), guest, [6]byte{}, gw))
	s.silent("a claim of our own address", testnet.ARP(1, testnet.GuestMAC(), gw, [6]byte{}, gw))
	s.silent("a question in our own name", testnet.ARP(1, testnet.GuestMAC(), s.plan.DNS, [6]byte{}, gw))
	question := testnet.ARP(1, testnet.GuestMAC(), guest, [6]byte{}, gw)
	for i, name := range map[int]string{14: "hardware type", 16: "protocol type", 18: "hardware length", 19: "protocol length"} {
		lie := bytes.Clone(question)
		lie[i] ^= 0x40
		s.silent("a wrong "+name, lie)
	}
	// A guest that looks for a free address (RFC 5227) must find ours taken.
	if sent := s.feed(testnet.ARP(1, testnet.GuestMAC(), netip.IPv4Unspecified(), [6]byte{}, gw)); len(sent) != 1 {
		t.Errorf("a probe of our own address had %d answers, want 1", len(sent))
	}
}

func solicit(src, target netip.Addr, options ...byte) []byte {
	b := target.As16()
	dst := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
	return testnet.ICMP(src, dst, 135, 0, append(append(make([]byte, 4), b[:]...), options...))
}

func TestNeighborSolicitationIsAnsweredForOwnAddressesOnly(t *testing.T) {
	devices(t, func(t *testing.T, d testnet.DeviceConfig) {
		s := newSeam(t, seamConfig{device: d})
		for _, own := range s.plan.Own() {
			if own.Is4() {
				continue
			}
			sent := s.feed(solicit(guest6.Addr(), own, 1, 1, 2, 0, 0, 0, 0, 0x64))
			if len(sent) != 1 {
				t.Fatalf("%v: %d answers, want 1", own, len(sent))
			}
			flags := uint32(0x60000000)
			if s.plan.IsGateway(own) {
				flags |= 0x80000000
			}
			mac, target := s.plan.MAC, own.As16()
			p := sent[0]
			want := append(append(binary.BigEndian.AppendUint32(nil, flags), target[:]...), append([]byte{2, 1}, mac[:]...)...)
			if p.Src != own || p.Dst != guest6.Addr() || p.TTL != 255 || p.Payload[0] != 136 || !bytes.Equal(p.Payload[4:], want) {
				t.Errorf("%v: sent %+v", own, p)
			}
			// Duplicate address detection: everybody must hear it.
			sent = s.feed(solicit(netip.IPv6Unspecified(), own))
			if len(sent) != 1 || sent[0].Dst != netip.IPv6LinkLocalAllNodes() || sent[0].Payload[4]&0x40 != 0 || sent[0].DstMAC != [6]byte{0x33, 0x33, 0, 0, 0, 1} {
				t.Errorf("%v: duplicate address detection had %+v", own, sent)
			}
		}
		for _, other := range []string{"fd00::1", "fd00::100", "fe80::1", "2001:db8::1", "fd00::5055"} {
			s.silent("solicitation of "+other, solicit(guest6.Addr(), netip.MustParseAddr(other)))
		}
	})
}

func TestNeighborDiscoveryThatIsNotValid(t *testing.T) {
	s := newSeam(t, seamConfig{adverts: routerAdvertisement()})
	src, gw := guest6.Addr(), s.plan.Gateway6
	target := gw.As16()
	body := append(make([]byte, 4), target[:]...)
	good := testnet.ICMPMessage(src, gw, 135, 0, body)
	packet := testnet.Packet{Src: src, Dst: gw, Proto: stack.ProtoICMPv6, TTL: 255, Payload: good}
	if len(s.feed(packet.Frame())) != 1 {
		t.Fatal("the valid one had no answer")
	}
	far := packet
	far.TTL = 254
	s.silent("hop limit 254", far.Frame())
	s.silent("code 1", testnet.ICMP(src, gw, 135, 1, body))
	s.silent("a cut target", testnet.ICMP(src, gw, 135, 0, body[:12]))
	s.silent("an advertisement", testnet.ICMP(src, gw, 136, 0, body))
	s.silent("a router's advertisement", testnet.ICMP(src, netip.IPv6LinkLocalAllNodes(), 134, 0, make([]byte, 12)))
	s.silent("a redirect", testnet.ICMP(src, gw, 137, 0, make([]byte, 36)))
	bad := bytes.Clone(packet.Frame())
	bad[len(bad)-1] ^= 1
	s.silent("a wrong checksum", bad)
	// RFC 6980: nodes must ignore neighbour discovery in fragments.
	nonce := append([]byte{14, 5}, make([]byte, 38)...)
	packet.Payload = testnet.ICMPMessage(src, gw, 135, 0, append(body, nonce...))
	s.silent("fragments", packet.Fragments(40+8+32)...)
	atomic := packet
	atomic.ExtensionType, atomic.Extensions = 44, make([]byte, 8) // RFC 6946: a fragment that is all
	s.silent("an atomic fragment", atomic.Frame())
}

// What takes gVisor's way must not find gVisor answering for every address.
func TestNeighborSolicitationBehindAnExtensionHeader(t *testing.T) {
	s := newSeam(t, seamConfig{})
	for _, target := range []string{"fd00::1", "fd00::101", "2001:db8::7"} {
		b := netip.MustParseAddr(target).As16()
		for _, dst := range []netip.Addr{netip.MustParseAddr(target), netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})} {
			p := testnet.Packet{
				Src: guest6.Addr(), Dst: dst, Proto: stack.ProtoICMPv6, TTL: 255, Extensions: []byte{0, 0, 1, 4, 0, 0, 0, 0},
				Payload: testnet.ICMPMessage(guest6.Addr(), dst, 135, 0, append(append(make([]byte, 4), b[:]...), 1, 1, 2, 0, 0, 0, 0, 0x64)),
			}
			s.silent("hop-by-hop options, "+target+" by way of "+dst.String(), p.Frame())
			p.ExtensionType = 60
			s.silent("destination options, "+target+" by way of "+dst.String(), p.Frame())
		}
	}
}

func routerAdvertisement() []byte {
	return []byte{134, 0, 0, 0, 64, 0x48, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
}

func TestRouterSolicitationIsAnswered(t *testing.T) {
	solicitation := testnet.ICMP(netip.MustParseAddr("fe80::100"), netip.MustParseAddr("ff02::2"), 133, 0, make([]byte, 4))
	s := newSeam(t, seamConfig{adverts: routerAdvertisement()})
	for range 2 { // the message is filled in anew each time
		sent := s.feed(solicitation)
		if len(sent) != 1 || sent[0].Src != s.plan.GatewayLinkLocal || sent[0].Dst != netip.IPv6LinkLocalAllNodes() || sent[0].TTL != 255 || sent[0].Payload[0] != 134 {
			t.Errorf("sent %+v", sent)
		}
	}
	newSeam(t, seamConfig{}).silent("without an advertisement", solicitation)
	newSeam(t, seamConfig{adverts: routerAdvertisement(), noIPv6: true}).silent("without IPv6", solicitation)
}

// Frames go where their destination was last heard from.
func TestNeighborsAreLearned(t *testing.T) {
	other := [6]byte{2, 0, 0, 0, 0, 9}
	behind := netip.MustParseAddrPort("10.0.2.101:9")
	send := func(s *seam, to netip.AddrPort) [6]byte {
		s.stack.SendUDP(remote4, to, []byte("x"))
		return s.sent()[0].DstMAC
	}
	hear := func(s *seam, from netip.AddrPort, mac [6]byte) {
		s.feed(testnet.Packet{
			SrcMAC: mac, Src: from.Addr(), Dst: remote4.Addr(), Proto: stack.ProtoUDP,
			Payload: testnet.Datagram(from, remote4, nil),
		}.Frame())
	}
	s := newSeam(t, seamConfig{})
	if got := send(s, behind); got != testnet.GuestMAC() {
		t.Errorf("unheard of: sent to %x, want the TAP's own", got)
	}
	hear(s, behind, other)
	if got := send(s, behind); got != other {
		t.Errorf("behind a bridge: sent to %x", got)
	}
	if got := send(s, guest4); got != testnet.GuestMAC() {
		t.Errorf("another address: sent to %x", got)
	}
	hear(s, behind, testnet.GuestMAC())
	if got := send(s, behind); got != testnet.GuestMAC() {
		t.Errorf("after it moved: sent to %x", got)
	}
	hear(s, behind, broadcastMAC)
	if got := send(s, behind); got != testnet.GuestMAC() {
		t.Errorf("a frame from the broadcast address taught us %x", got)
	}
	if got := send(s, netip.MustParseAddrPort("255.255.255.255:68")); got != broadcastMAC {
		t.Errorf("broadcast: sent to %x", got)
	}
}

// Where somebody knows the neighbours, what guests send teaches nothing.
func TestNeighborsAreAskedFor(t *testing.T) {
	known, liar := [6]byte{2, 0, 0, 0, 0, 7}, [6]byte{2, 0, 0, 0, 0, 9}
	s := newSeam(t, seamConfig{neighbors: func(a netip.Addr) ([6]byte, bool) {
		return known, a == guest4.Addr() || a == guest6.Addr()
	}})
	for _, src := range []netip.AddrPort{guest4, netip.MustParseAddrPort("10.0.2.101:9")} {
		s.feed(testnet.Packet{
			SrcMAC: liar, Src: src.Addr(), Dst: remote4.Addr(), Proto: stack.ProtoUDP,
			Payload: testnet.Datagram(src, remote4, nil),
		}.Frame(), testnet.ARP(1, liar, src.Addr(), [6]byte{}, s.plan.Gateway))
	}
	for _, tc := range []struct {
		from, to netip.AddrPort
		want     [6]byte
	}{
		{remote4, guest4, known},
		{remote6, guest6, known},
		{remote4, netip.MustParseAddrPort("10.0.2.101:9"), [6]byte{}},
		{remote4, netip.MustParseAddrPort("255.255.255.255:68"), broadcastMAC},
		{remote6, netip.MustParseAddrPort("[ff02::1]:546"), [6]byte{0x33, 0x33, 0, 0, 0, 1}},
	} {
		s.stack.SendUDP(tc.from, tc.to, []byte("x"))
		if sent := s.sent(); len(sent) != 1 || sent[0].DstMAC != tc.want {
			t.Errorf("to %v: %d frames, want one to %x", tc.to, len(sent), tc.want)
		}
	}
}

// FuzzNeighborDiscovery: no such message reaches the handler, and only a valid one has
// an answer: an advertisement of the address that it asks for, if that is ours, or of
// the router.
func FuzzNeighborDiscovery(f *testing.F) {
	guest, target := guest6.Addr(), netip.MustParseAddr("fd00::2").As16()
	ask := append(make([]byte, 4), target[:]...)
	for typ := range uint8(5) {
		f.Add(typ, uint8(0), uint8(255), guest.AsSlice(), ask)
		f.Add(typ, uint8(0), uint8(255), make([]byte, 16), append(ask, 1, 1, 2, 0, 0, 0, 0, 0x64))
		f.Add(typ, uint8(1), uint8(255), guest.AsSlice(), ask[:4])
		f.Add(typ, uint8(0), uint8(64), netip.MustParseAddr("fe80::64").AsSlice(), append(ask, 1, 0))
	}
	f.Fuzz(func(t *testing.T, typ, code, ttl uint8, from, body []byte) {
		src, ok := netip.AddrFromSlice(from)
		if !ok || !src.Is6() || len(body) > 60_000 || ttl == 0 {
			return
		}
		s := newSeam(t, seamConfig{adverts: routerAdvertisement()})
		typ = 133 + typ%5
		dst := netip.MustParseAddr("ff02::2")
		sent := s.feed(testnet.Packet{
			Src: src, Dst: dst, Proto: stack.ProtoICMPv6, TTL: ttl, Payload: testnet.ICMPMessage(src, dst, typ, code, body),
		}.Frame())
		if s.handled() > 0 || len(sent) > 1 {
			t.Fatalf("handled %d, sent %d", s.handled(), len(sent))
		}
		if a := s.stack.GuestAddr6(); !s.plan.Prefix6.Contains(a) || s.plan.IsOwn(a) {
			t.Errorf("the guest is taken for %v", a)
		}
		asked := netip.Addr{}
		if typ == 135 && len(body) >= 4+16 {
			asked = netip.AddrFrom16([16]byte(body[4:]))
		}
		isFor := typ == 133 || s.plan.IsOwn(asked)
		if len(sent) == 0 {
			if isFor && ttl == 255 && code == 0 && len(body) >= 4 && len(body) < 1000 && s.plan.Prefix6.Contains(src) && !s.plan.IsOwn(src) {
				t.Errorf("type %d of %v for %v has no answer", typ, src, asked)
			}
			return
		}
		p := sent[0]
		if !isFor || ttl != 255 || code != 0 || p.TTL != 255 || !s.plan.IsOwn(p.Src) {
			t.Errorf("type %d code %d of %v for %v is answered by %+v", typ, code, src, asked, p)
		}
		switch {
		case typ == 133:
			if !bytes.Equal(p.Payload[4:], routerAdvertisement()[4:]) || p.Payload[0] != 134 || !p.Dst.IsMulticast() {
				t.Errorf("router solicitation is answered by %+v", p)
			}
		case p.Payload[0] != 136 || p.Src != asked || !bytes.Equal(p.Payload[8:24], asked.AsSlice()) || p.Dst != src && !src.IsUnspecified():
			t.Errorf("solicitation of %v is answered by %+v", asked, p)
		}
	})
}
