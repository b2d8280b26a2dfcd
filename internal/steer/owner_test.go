package steer

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// testGroup has workers, but no queues to read.
func testGroup(t testing.TB, workers int, disableDNS bool) *Group {
	p := addressingtest.New(t)
	return &Group{rules: rules{uint64(workers), p, disableDNS}}
}

// ownerOf is the owner of an Ethernet frame.
func (g *Group) ownerOf(frame []byte) int {
	if len(frame) < header.EthernetMinimumSize {
		return 0
	}
	return g.owner(header.Ethernet(frame).Type(), frame[header.EthernetMinimumSize:], nil)
}

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// pairs of endpoints, guest first, of either family, all owned by other workers than
// 0 where their protocol has it so.
func pairs(g *Group, proto uint8) (list [][2]netip.AddrPort) {
	for _, p := range [][2]string{{"10.0.2.100", "192.0.2.7"}, {"fd00::1234", "2001:db8::7"}} {
		for port := uint16(40000); ; port++ {
			guest := netip.AddrPortFrom(netip.MustParseAddr(p[0]), port)
			outside := netip.AddrPortFrom(netip.MustParseAddr(p[1]), 443)
			f := flow{proto, guest, outside}
			if g.rules.owner(&f) != 0 {
				list = append(list, [2]netip.AddrPort{guest, outside})
				break
			}
		}
	}
	return list
}

// withOptions puts four words of options into an IPv4 frame, or two extension
// headers into an IPv6 frame.
func withOptions(frame []byte) []byte {
	p, err := testnet.Parse(frame)
	if err != nil {
		panic(err)
	}
	p.Options = make([]byte, 16)
	p.ExtensionType = uint8(header.IPv6HopByHopOptionsExtHdrIdentifier)
	p.Extensions = []byte{
		uint8(header.IPv6DestinationOptionsExtHdrIdentifier), 0, 1, 4, 0, 0, 0, 0,
		0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	}
	return p.Frame()
}

// quoted is an ICMP error of the guest's about a packet of ours.
func quoted(guest, outside netip.AddrPort) []byte {
	ours := testnet.TCP(outside, guest, 2, 1, 0, nil)[header.EthernetMinimumSize:]
	typ, code := uint8(3), uint8(3)
	if guest.Addr().Is6() {
		typ, code = 1, 4
	}
	return testnet.ICMP(guest.Addr(), outside.Addr(), typ, code, append(make([]byte, 4), ours...))
}

func TestOneOwnerForEachConnection(t *testing.T) {
	g := testGroup(t, 4, false)
	for _, p := range pairs(g, stack.ProtoTCP) {
		want := g.ownerOf(testnet.SYN(p[0], p[1], 1))
		if want == 0 {
			t.Fatalf("%v: worker 0", p)
		}
		data := testnet.TCP(p[0], p[1], 0x18, 2, 2, make([]byte, 900))
		for name, frame := range map[string][]byte{
			"data":                  data,
			"data, options":         withOptions(data),
			"ICMP error":            quoted(p[0], p[1]),
			"ICMP error, extension": withOptions(quoted(p[0], p[1])),
		} {
			if got := g.ownerOf(frame); got != want {
				t.Errorf("%v: worker %d for %s, %d for the SYN", p, got, name, want)
			}
		}
	}
}

func TestOneOwnerForEachMapping(t *testing.T) {
	g := testGroup(t, 4, false)
	p := addressingtest.New(t)
	for _, pair := range pairs(g, stack.ProtoUDP) {
		guest := pair[0]
		gateway := p.Gateway
		others := []string{"192.0.2.8:53", "198.51.100.1:67", "203.0.113.200:547"}
		if guest.Addr().Is6() {
			gateway = p.Gateway6
			others = []string{"[2001:db8::8]:53", "[2001:db8::9]:67", "[2001:db8::a]:547"}
		}
		want := g.ownerOf(testnet.UDP(guest, pair[1], 64, nil))
		if want == 0 {
			t.Fatalf("%v: worker 0", pair)
		}
		to := []netip.AddrPort{netip.AddrPortFrom(gateway, 7)}
		for _, o := range others {
			to = append(to, at(o))
		}
		for _, dst := range to {
			frame := testnet.UDP(guest, dst, 64, []byte("x"))
			if got := g.ownerOf(frame); got != want {
				t.Errorf("%v: worker %d to %v, %d to %v", guest, got, dst, want, pair[1])
			}
			if got := g.ownerOf(withOptions(frame)); got != want {
				t.Errorf("%v: worker %d to %v with options, %d without", guest, got, dst, want)
			}
		}
	}
}

// What is not TCP or UDP of the outside has its services on worker 0.
func TestWorkerZeroHasTheServices(t *testing.T) {
	g := testGroup(t, 16, false)
	p := addressingtest.New(t)
	mac := testnet.GuestMAC()
	arp := append(append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	for i := range uint16(64) {
		guest4 := netip.AddrPortFrom(p.Guest, 40000+i)
		guest6 := netip.AddrPortFrom(netip.MustParseAddr("fd00::64"), 40000+i)
		syn := testnet.SYN(guest4, at("192.0.2.7:80"), 1)
		vlan := append(append(append([]byte(nil), syn[:12]...), 0x81, 0, 0, 1), syn[12:]...)
		for name, frame := range map[string][]byte{
			"DNS by UDP":       testnet.UDP(guest4, netip.AddrPortFrom(p.DNS, 53), 64, nil),
			"DNS by TCP":       testnet.SYN(guest4, netip.AddrPortFrom(p.DNS, 53), 1),
			"DNS by UDP, IPv6": testnet.UDP(guest6, netip.AddrPortFrom(p.DNS6, 53), 64, nil),
			"DNS by TCP, IPv6": testnet.SYN(guest6, netip.AddrPortFrom(p.DNS6, 53), 1),
			"DHCP broadcast":   testnet.UDP(at("0.0.0.0:68"), at("255.255.255.255:67"), 64, nil),
			"DHCP renewal":     testnet.UDP(guest4, netip.AddrPortFrom(p.Gateway, 67), 64, nil),
			"DHCPv6":           testnet.UDP(guest6, at("[ff02::1:2]:547"), 64, nil),
			"multicast":        testnet.UDP(guest4, at("224.0.0.251:5353"), 64, nil),
			"echo":             testnet.Echo(p.Guest, netip.MustParseAddr("192.0.2.7"), i, 1, 64, nil),
			"echo, IPv6":       testnet.Echo(guest6.Addr(), netip.MustParseAddr("2001:db8::7"), i, 1, 64, nil),
			"ARP":              append(arp, make([]byte, 20)...),
			"VLAN":             vlan,
			"no transport":     syn[:header.EthernetMinimumSize+20],
			"half a port":      syn[:header.EthernetMinimumSize+23],
			"half an IP":       syn[:header.EthernetMinimumSize+11],
			"half an Ethernet": syn[:9],
			"nothing":          nil,
			"IPv4 length of 4": append(append(append([]byte(nil), syn[:header.EthernetMinimumSize]...), 0x41), syn[header.EthernetMinimumSize+1:]...),
		} {
			if got := g.ownerOf(frame); got != 0 {
				t.Errorf("%s: worker %d", name, got)
			}
		}
	}
}

// An address that is nobody's service is an ordinary one.
func TestDisabledDNSIsNoService(t *testing.T) {
	g := testGroup(t, 16, true)
	p := addressingtest.New(t)
	used := map[int]bool{}
	for i := range uint16(64) {
		used[g.ownerOf(testnet.SYN(netip.AddrPortFrom(p.Guest, 40000+i), netip.AddrPortFrom(p.DNS, 53), 1))] = true
	}
	if len(used) < 8 {
		t.Errorf("64 connections in %d workers", len(used))
	}
}

// A network's gateway is its resolver, too: only what asks for names is worker 0's.
func TestNetworkGatewayIsSpread(t *testing.T) {
	p := addressingtest.Network(t)
	g := &Group{rules: rules{16, p, false}}
	used := map[int]bool{}
	for i := range uint16(64) {
		member := netip.AddrPortFrom(p.Host(2), 40000+i)
		for _, frame := range [][]byte{
			testnet.UDP(member, netip.AddrPortFrom(p.DNS, 53), 64, nil),
			testnet.SYN(member, netip.AddrPortFrom(p.DNS, 53), 1),
			testnet.UDP(member, netip.AddrPortFrom(p.Gateway, 67), 64, nil),
		} {
			if got := g.ownerOf(frame); got != 0 {
				t.Errorf("a service on worker %d", got)
			}
		}
		used[g.ownerOf(testnet.SYN(member, netip.AddrPortFrom(p.Gateway, 80), 1))] = true
	}
	if len(used) < 8 {
		t.Errorf("64 connections in %d workers", len(used))
	}
}

// Flows as programs make them, with ports one after the other, are spread.
func TestFlowsAreSpread(t *testing.T) {
	for _, workers := range []int{2, 3, 4, 16} {
		g := testGroup(t, workers, false)
		const flows = 4096
		for name, frame := range map[string]func(i uint16) []byte{
			"guest's port": func(i uint16) []byte {
				return testnet.SYN(netip.AddrPortFrom(netip.MustParseAddr("10.0.2.100"), 32768+i), at("192.0.2.7:80"), 1)
			},
			"every second port": func(i uint16) []byte {
				return testnet.SYN(netip.AddrPortFrom(netip.MustParseAddr("fd00::64"), 32768+2*i), at("[2001:db8::1]:80"), 1)
			},
			"server": func(i uint16) []byte {
				return testnet.SYN(at("10.0.2.100:40000"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 80), 1)
			},
			"datagrams": func(i uint16) []byte {
				return testnet.UDP(netip.AddrPortFrom(netip.MustParseAddr("10.0.2.100"), 32768+i), at("192.0.2.7:80"), 64, nil)
			},
			"guests": func(i uint16) []byte {
				return testnet.UDP(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 3 + byte(i>>8), byte(i)}), 5000), at("192.0.2.7:80"), 64, nil)
			},
		} {
			counts := make([]int, workers)
			for i := range uint16(flows) {
				counts[g.ownerOf(frame(i))]++
			}
			for worker, n := range counts {
				if fair := flows / workers; n < fair*3/4 || n > fair*5/4 {
					t.Errorf("%s: worker %d of %d has %d of %d", name, worker, workers, n, flows)
				}
			}
		}
	}
}

func TestClaimsBringToWorkerZero(t *testing.T) {
	g := testGroup(t, 4, false)
	p := pairs(g, stack.ProtoTCP)[0]
	tcp, udp := testnet.SYN(p[0], p[1], 1), testnet.UDP(p[0], p[1], 64, nil)
	workers := func() [2]int { return [2]int{g.ownerOf(tcp), g.ownerOf(udp)} }
	before := workers()
	check := func(when string, want [2]int) {
		t.Helper()
		if got := workers(); got != want {
			t.Errorf("%s: workers %v, want %v", when, got, want)
		}
	}
	g.Claim(stack.ProtoTCP, p[0], p[1])
	check("TCP claimed", [2]int{0, before[1]})
	g.Claim(stack.ProtoTCP, p[0], p[1])
	g.Release(stack.ProtoTCP, p[0], p[1])
	check("TCP claimed once still", [2]int{0, before[1]})
	g.Release(stack.ProtoTCP, p[0], p[1])
	check("released", before)
	g.Release(stack.ProtoTCP, p[0], p[1])
	g.Claim(stack.ProtoUDP, p[0], p[1])
	check("UDP claimed", [2]int{before[0], 0})
	g.Release(stack.ProtoUDP, p[0], p[1])
	check("all released", before)
	if n := len(g.claims.held); n != 0 {
		t.Errorf("%d claims are left", n)
	}
	for i := range g.claims.slots {
		if n := g.claims.slots[i].Load(); n != 0 {
			t.Errorf("%d claims are left in slot %d", n, i)
		}
	}
}

// wellFormed reports whether a frame is an IP packet without options or extension
// headers, and all there.
func wellFormed(frame []byte) bool {
	if len(frame) < header.EthernetMinimumSize+header.IPv6MinimumSize+8 {
		return false
	}
	ip := frame[header.EthernetMinimumSize:]
	switch header.Ethernet(frame).Type() {
	case header.IPv4ProtocolNumber:
		h := header.IPv4(ip)
		return h.IsValid(len(ip)) && h.HeaderLength() == header.IPv4MinimumSize && h.TotalLength() >= header.IPv4MinimumSize+8
	case header.IPv6ProtocolNumber:
		h := header.IPv6(ip)
		return h.IsValid(len(ip)) && h.PayloadLength() >= 8 && h.NextHeader() != header.IPv6FragmentHeader
	}
	return false
}

// FuzzOwner: every frame has an owner, always the same; and a packet that others
// read as TCP or UDP has that of its addresses and ports, whatever else is in it.
func FuzzOwner(f *testing.F) {
	g := testGroup(f, 4, false)
	for _, p := range append(pairs(g, stack.ProtoTCP), pairs(g, stack.ProtoUDP)...) {
		tcp := testnet.TCP(p[0], p[1], 0x18, 2, 2, []byte("payload"))
		udp := testnet.UDP(p[0], p[1], 64, []byte("payload"))
		for _, frame := range [][]byte{tcp, udp, withOptions(tcp), withOptions(udp), quoted(p[0], p[1])} {
			f.Add(frame)
			f.Add(frame[:len(frame)/2])
			for _, part := range cut(frame, 8) {
				f.Add(part)
			}
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		got := g.ownerOf(frame)
		if got < 0 || got >= 4 {
			t.Fatalf("worker %d of 4", got)
		}
		if again := g.ownerOf(frame); again != got {
			t.Errorf("worker %d, then %d", got, again)
		}
		if !wellFormed(frame) {
			return
		}
		p, err := testnet.ParseCut(frame[header.EthernetMinimumSize:])
		if err != nil || p.Fragment() {
			return
		}
		var src, dst netip.AddrPort
		var plain []byte
		switch p.Proto {
		case stack.ProtoTCP:
			src, dst = netip.AddrPortFrom(p.Src, p.SrcPort()), netip.AddrPortFrom(p.Dst, p.DstPort())
			plain = testnet.SYN(src, dst, 1)
		case stack.ProtoUDP:
			src, dst = netip.AddrPortFrom(p.Src, p.SrcPort()), netip.AddrPortFrom(p.Dst, p.DstPort())
			plain = testnet.UDP(src, dst, 64, nil)
		default:
			return
		}
		if want := g.ownerOf(plain); got != want {
			t.Errorf("worker %d, want %d for protocol %d from %v to %v", got, want, p.Proto, src, dst)
		}
	})
}
