package stack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/stack"
	"epiphyte/stack/stacktest"
)

// validFrames is one good frame of each kind that has an effect.
func validFrames() map[string][]byte {
	return map[string][]byte{
		"ARP":          stacktest.ARP(1, stacktest.GuestMAC, guest4.Addr(), [6]byte{}, netip.MustParseAddr("10.0.2.2")),
		"UDP":          stacktest.UDPFrame(guest4, remote4, []byte("question")),
		"UDP, IPv6":    stacktest.UDPFrame(guest6, remote6, []byte("question")),
		"SYN":          stacktest.TCPFrame(guest4, remote4, stacktest.SYN, 1, 0, nil),
		"SYN, IPv6":    stacktest.TCPFrame(guest6, remote6, stacktest.SYN, 1, 0, nil),
		"echo":         stacktest.ICMPFrame(guest4.Addr(), remote4.Addr(), 8, 0, []byte("\x12\x34\x00\x01ping")),
		"echo, IPv6":   stacktest.ICMPFrame(guest6.Addr(), remote6.Addr(), 128, 0, []byte("\x12\x34\x00\x01ping")),
		"own echo":     stacktest.ICMPFrame(guest4.Addr(), netip.MustParseAddr("10.0.2.2"), 8, 0, []byte("\x12\x34\x00\x01ping")),
		"solicitation": solicit(guest6.Addr(), netip.MustParseAddr("fd00::2")),
		"options": stacktest.Packet{
			Src: guest4.Addr(), Dst: remote4.Addr(), Proto: stacktest.ProtoUDP, Options: []byte{1, 1, 1, 0},
			Payload: stacktest.UDP(guest4, remote4, []byte("question")),
		}.Frame(),
		"extension header": stacktest.Packet{
			Src: guest6.Addr(), Dst: remote6.Addr(), Proto: stacktest.ProtoUDP, ExtensionType: 60, Extensions: []byte{0, 0, 1, 4, 0, 0, 0, 0},
			Payload: stacktest.UDP(guest6, remote6, []byte("question")),
		}.Frame(),
	}
}

// B42: a frame that was cut anywhere does nothing, and does not hurt what
// comes after it.
func TestB42_TruncatedFramesDoNothing(t *testing.T) {
	devices(t, func(t *testing.T, d stacktest.DeviceConfig) {
		s := newSeam(t, seamConfig{device: d})
		for name, frame := range validFrames() {
			for n := 1; n < len(frame); n++ {
				s.silent(fmt.Sprintf("%s cut to %d of %d bytes", name, n, len(frame)), frame[:n])
			}
			if sent := s.feed(frame); len(sent)+s.handled() != 1 {
				t.Errorf("%s: %d frames sent and %d packets handled, want one in all", name, len(sent), s.handled())
			}
		}
	})
}

// B42: reads shorter than the virtio header, and than the Ethernet header.
func TestB42_RawReadsOfAnyLength(t *testing.T) {
	s := newSeam(t, seamConfig{device: stacktest.DeviceConfig{Offload: true}})
	for n := 1; n < 40; n++ {
		s.forget()
		s.dev.InjectRaw(bytes.Repeat([]byte{1}, n))
		s.run()
		if len(s.dev.Sent())+s.handled() > 0 {
			t.Errorf("%d bytes had an effect", n)
		}
	}
}

// B42: frames whose inner lengths are shortened, one byte at a time, with the
// header checksum put right: the outer lengths are believed only as far as
// there are bytes.
func TestB42_LyingLengths(t *testing.T) {
	s := newSeam(t, seamConfig{})
	edit := func(frame []byte, f func(b []byte)) []byte {
		b := bytes.Clone(frame)
		f(b)
		if b[12] == 8 && b[13] == 0 && b[14]&15 >= 5 && int(b[14]&15)*4 <= len(b)-14 {
			stacktest.FixIPv4(b)
		}
		return b
	}
	udp4, udp6 := validFrames()["UDP"], validFrames()["UDP, IPv6"]
	syn4 := validFrames()["SYN"]
	for n := range 0x200 {
		size := len(udp4) - 14
		if n != size {
			s.silent(fmt.Sprintf("IPv4 total length %d, not %d", n, size), edit(udp4, func(b []byte) { binary.BigEndian.PutUint16(b[16:], uint16(n)) }))
		}
		if size := len(udp6) - 54; n != size {
			s.silent(fmt.Sprintf("IPv6 payload length %d, not %d", n, size), edit(udp6, func(b []byte) { binary.BigEndian.PutUint16(b[18:], uint16(n)) }))
		}
		if size := len(udp4) - 34; n != size {
			s.silent(fmt.Sprintf("UDP length %d, not %d", n, size), edit(udp4, func(b []byte) { binary.BigEndian.PutUint16(b[38:], uint16(n)) }))
		}
	}
	for ihl := range byte(16) {
		if ihl != 5 {
			s.silent(fmt.Sprintf("IPv4 header length %d", ihl), edit(udp4, func(b []byte) { b[14] = 0x40 | ihl }))
		}
	}
	for off := range byte(16) {
		if off != 5 {
			s.silent(fmt.Sprintf("TCP data offset %d", off), edit(syn4, func(b []byte) { b[46] = off << 4 }))
		}
	}
	for version := range byte(16) {
		if version != 4 {
			s.silent(fmt.Sprintf("version %d in an IPv4 frame", version), edit(udp4, func(b []byte) { b[14] = version<<4 | 5 }))
		}
		if version != 6 {
			s.silent(fmt.Sprintf("version %d in an IPv6 frame", version), edit(udp6, func(b []byte) { b[14] = version << 4 }))
		}
	}
}

func TestWrongChecksumsAreDropped(t *testing.T) {
	devices(t, func(t *testing.T, d stacktest.DeviceConfig) {
		s := newSeam(t, seamConfig{device: d})
		for name, frame := range validFrames() {
			if name == "ARP" { // it has none
				continue
			}
			bad := bytes.Clone(frame)
			bad[len(bad)-2] ^= 0x10
			s.silent(name+", data changed", bad)
			if frame[12] == 8 {
				bad = bytes.Clone(frame)
				bad[22]++ // the TTL
				s.silent(name+", IPv4 header changed", bad)
			}
		}
	})
}

// The guest's kernel leaves checksums to be completed, or has verified them.
func TestChecksumsTheDeviceVouchesFor(t *testing.T) {
	s := newSeam(t, seamConfig{device: stacktest.DeviceConfig{Offload: true}})
	for _, name := range []string{"UDP", "UDP, IPv6", "SYN", "SYN, IPv6"} {
		frame := validFrames()[name]
		at := len(frame) - 2 - 8 // UDP: the checksum before eight bytes of data
		if name[:3] == "SYN" {
			at = len(frame) - 4
		}
		binary.BigEndian.PutUint16(frame[at:], 0x1234)
		for _, flags := range []uint8{stacktest.NeedsCsum, stacktest.DataValid} {
			s.forget()
			s.dev.InjectVNet(stacktest.VNetHdr{Flags: flags}, frame)
			s.run()
			if s.handled() != 1 {
				t.Errorf("%s, flags %d: handled %d packets, want 1", name, flags, s.handled())
			}
		}
		s.silent(name+" without the flag", frame)
	}
}

// Zero means "no checksum" over IPv4 (RFC 768) and nothing over IPv6 (RFC
// 8200).
func TestUDPWithoutAChecksum(t *testing.T) {
	s := newSeam(t, seamConfig{})
	frame := validFrames()["UDP"]
	frame[40], frame[41] = 0, 0
	s.feed(frame)
	s.oneDatagram("IPv4", guest4, remote4, []byte("question"))
	frame = validFrames()["UDP, IPv6"]
	frame[60], frame[61] = 0, 0
	s.silent("IPv6", frame)
}

func TestEthernetPaddingIsCut(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		frame := stacktest.UDPFrame(guest, remote, []byte("x"))
		s.feed(append(frame, bytes.Repeat([]byte{0xee}, 46)...))
		s.oneDatagram("padded", guest, remote, []byte("x"))
		// Padding that reaches into the second read buffer.
		s.feed(append(frame, bytes.Repeat([]byte{0xee}, 9000)...))
		s.oneDatagram("padded by 9000 bytes", guest, remote, []byte("x"))
		// A datagram may be shorter than the packet that carries it (RFC 768).
		p := stacktest.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: stacktest.ProtoUDP}
		p.Payload = append(stacktest.UDP(guest, remote, []byte("y")), 0, 0, 0)
		s.feed(p.Frame())
		s.oneDatagram("short datagram", guest, remote, []byte("y"))
	})
}

func TestB40_SpoofedSourcesAreDropped(t *testing.T) {
	s := newSeam(t, seamConfig{adverts: routerAdvertisement()})
	for _, src := range []string{
		"127.0.0.1", "127.9.9.9", "224.0.0.1", "239.1.2.3", "255.255.255.255", "10.0.2.2", "10.0.2.3",
		"::1", "ff02::1", "ff0e::7", "fd00::2", "fd00::3", "fe80::2", "fe80::3", "::ffff:10.0.2.100", "::ffff:127.0.0.1",
	} {
		a := netip.MustParseAddr(src)
		remote, own := remote4, s.plan.Gateway
		if a.Is6() {
			remote, own = remote6, s.plan.Gateway6
		}
		from := netip.AddrPortFrom(a, 5000)
		echo := uint8(8)
		if a.Is6() {
			echo = 128
		}
		s.silent("UDP from "+src, stacktest.UDPFrame(from, remote, []byte("x")))
		s.silent("UDP to the gateway from "+src, stacktest.UDPFrame(from, netip.AddrPortFrom(own, 53), []byte("x")))
		s.silent("SYN from "+src, stacktest.TCPFrame(from, remote, stacktest.SYN, 1, 0, nil))
		s.silent("stray ACK from "+src, stacktest.TCPFrame(from, remote, stacktest.ACK, 1, 1, nil))
		s.silent("echo from "+src, stacktest.ICMPFrame(a, remote.Addr(), echo, 0, []byte("\x00\x01\x00\x01ping")))
		s.silent("echo to the gateway from "+src, stacktest.ICMPFrame(a, own, echo, 0, []byte("\x00\x01\x00\x01ping")))
		p := stacktest.Packet{Src: a, Dst: remote.Addr(), Proto: stacktest.ProtoUDP, Payload: stacktest.UDP(from, remote, make([]byte, 3000))}
		s.silent("fragments from "+src, p.Fragments(1500)...)
	}
	// The unspecified address is for those who have none yet: DHCP and
	// duplicate address detection.
	nobody4, nobody6 := netip.AddrPortFrom(netip.IPv4Unspecified(), 68), netip.AddrPortFrom(netip.IPv6Unspecified(), 546)
	s.silent("SYN from 0.0.0.0", stacktest.TCPFrame(nobody4, remote4, stacktest.SYN, 1, 0, nil))
	s.silent("SYN from ::", stacktest.TCPFrame(nobody6, remote6, stacktest.SYN, 1, 0, nil))
	s.silent("UDP from ::", stacktest.UDPFrame(nobody6, remote6, []byte("x")))
	s.silent("echo from 0.0.0.0", stacktest.ICMPFrame(nobody4.Addr(), s.plan.Gateway, 8, 0, []byte("\x00\x01\x00\x01ping")))
	s.silent("echo from ::", stacktest.ICMPFrame(nobody6.Addr(), s.plan.Gateway6, 128, 0, []byte("\x00\x01\x00\x01ping")))
	everybody := netip.MustParseAddrPort("255.255.255.255:67")
	s.feed(stacktest.UDPFrame(nobody4, everybody, []byte("discover")))
	s.oneDatagram("DHCP", nobody4, everybody, []byte("discover"))
}

// Neither family leaks into the other's handlers.
func TestProtocolsThatAreNotServed(t *testing.T) {
	s := newSeam(t, seamConfig{})
	for proto := range 256 {
		for _, pair := range [][2]netip.Addr{{guest4.Addr(), remote4.Addr()}, {guest6.Addr(), remote6.Addr()}} {
			p := stacktest.Packet{Src: pair[0], Dst: pair[1], Proto: uint8(proto), Payload: make([]byte, 40)}
			sent := s.feed(p.Frame())
			// gVisor may complain by ICMP, as a router does.
			for _, q := range sent {
				if q.Proto != stacktest.ProtoICMP && q.Proto != stacktest.ProtoICMPv6 {
					t.Errorf("protocol %d was answered by %+v", proto, q)
				}
			}
			if s.handled() > 0 {
				t.Errorf("protocol %d with an empty header was handled", proto)
			}
		}
	}
	for typ := range 1 << 16 {
		switch typ {
		case stacktest.EtherARP, stacktest.EtherIPv4, stacktest.EtherIPv6:
			continue
		}
		if typ%251 != 0 && typ > 0x1000 {
			continue
		}
		frame := validFrames()["UDP"]
		binary.BigEndian.PutUint16(frame[12:], uint16(typ))
		s.silent(fmt.Sprintf("EtherType %#x", typ), frame)
	}
	newSeam(t, seamConfig{noIPv6: true}).silent("IPv6 where there is none", validFrames()["UDP, IPv6"], validFrames()["SYN, IPv6"], validFrames()["solicitation"])
}

func TestB26_LastHop(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		gateway, exceeded, unreachable, echo, proto := s.plan.Gateway, uint8(11), uint8(3), uint8(8), uint8(stacktest.ProtoICMP)
		if guest.Addr().Is6() {
			gateway, exceeded, unreachable, echo, proto = s.plan.Gateway6, 3, 1, 128, stacktest.ProtoICMPv6
		}
		probes := map[string]stacktest.Packet{
			"UDP":  {Proto: stacktest.ProtoUDP, Payload: stacktest.UDP(guest, remote, []byte("probe"))},
			"echo": {Proto: proto, Payload: stacktest.ICMP(guest.Addr(), remote.Addr(), echo, 0, []byte("\x00\x01\x00\x01ping"))},
			"SYN":  {Proto: stacktest.ProtoTCP, Payload: stacktest.TCP(guest, remote, stacktest.SYN, 7, 0, nil)},
		}
		for name, p := range probes {
			p.Src, p.Dst, p.TTL = guest.Addr(), remote.Addr(), 1
			sent := s.feed(p.Frame())
			if s.handled() > 0 {
				t.Errorf("%s was handled", name)
			}
			if len(sent) != 1 {
				t.Fatalf("%s: sent %d packets, want one", name, len(sent))
			}
			checkError(t, name, sent[0], gateway, exceeded, 0, p)
			p.TTL = 2
			if sent := s.feed(p.Frame()); len(sent) > 0 || s.handled() != 1 {
				t.Errorf("%s with TTL 2: sent %d, handled %d", name, len(sent), s.handled())
			}
		}
		// RFC 1122 section 3.2.2: no error about an error.
		p := probes["UDP"]
		p.Src, p.Dst = guest.Addr(), remote.Addr()
		p = stacktest.Packet{
			Src: guest.Addr(), Dst: remote.Addr(), TTL: 1, Proto: proto,
			Payload: stacktest.ICMP(guest.Addr(), remote.Addr(), unreachable, 1, append(make([]byte, 4), p.Frame()[14:]...)),
		}
		if sent := s.feed(p.Frame()); len(sent) > 0 {
			t.Errorf("an ICMP error with TTL 1 had the answer %+v", sent)
		}
	})
}

func TestTTL1ToWhereNoHopIs(t *testing.T) {
	s := newSeam(t, seamConfig{})
	udp := func(src, dst string) stacktest.Packet {
		from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
		return stacktest.Packet{Src: from.Addr(), Dst: to.Addr(), TTL: 1, Proto: stacktest.ProtoUDP, Payload: stacktest.UDP(from, to, []byte("x"))}
	}
	// To the link itself: no hop is taken.
	for _, dst := range []string{"10.0.2.3:53", "255.255.255.255:67"} {
		if sent := s.feed(udp("10.0.2.100:68", dst).Frame()); len(sent) > 0 || len(s.udp) != 1 {
			t.Errorf("TTL 1 to %s: sent %d, handled %d, want it handled", dst, len(sent), len(s.udp))
		}
	}
	// RFC 1122 section 3.2.2: no error to who is not a single host.
	if sent := s.feed(udp("0.0.0.0:68", "198.51.100.7:9").Frame()); len(sent) > 0 {
		t.Errorf("an error was sent to 0.0.0.0: %+v", sent)
	}
	// Nor about a multicast.
	if sent := s.feed(udp("10.0.2.100:5353", "224.0.0.251:5353").Frame()); len(sent) > 0 {
		t.Errorf("an error about a multicast: %+v", sent)
	}
}

// checkError compares an ICMP error to what it must say about the packet.
func checkError(t *testing.T, what string, got stacktest.Packet, from netip.Addr, typ, code uint8, about stacktest.Packet) {
	t.Helper()
	if got.Src != from || got.Dst != about.Src || got.Payload[0] != typ || got.Payload[1] != code {
		t.Errorf("%s: ICMP %d/%d from %v to %v, want %d/%d from %v to %v", what,
			got.Payload[0], got.Payload[1], got.Src, got.Dst, typ, code, from, about.Src)
		return
	}
	inner := got.Payload[8:]
	var src, dst netip.Addr
	var proto uint8
	if about.Src.Is4() {
		if len(inner) < 28 || inner[0] != 0x45 {
			t.Errorf("%s: quotes %x", what, inner)
			return
		}
		src, dst, proto = netip.AddrFrom4([4]byte(inner[12:16])), netip.AddrFrom4([4]byte(inner[16:20])), inner[9]
		inner = inner[20:]
	} else {
		if len(inner) < 48 || inner[0]>>4 != 6 {
			t.Errorf("%s: quotes %x", what, inner)
			return
		}
		src, dst, proto = netip.AddrFrom16([16]byte(inner[8:24])), netip.AddrFrom16([16]byte(inner[24:40])), inner[6]
		inner = inner[40:]
	}
	if src != about.Src || dst != about.Dst || proto != about.Proto || !bytes.Equal(inner[:4], about.Payload[:4]) {
		t.Errorf("%s: quotes %v to %v, protocol %d, %x; want %v to %v, %d, %x", what, src, dst, proto, inner[:8], about.Src, about.Dst, about.Proto, about.Payload[:8])
	}
	if about.Proto == stacktest.ProtoTCP && !bytes.Equal(inner[4:8], about.Payload[4:8]) {
		t.Errorf("%s: quotes sequence number %x, want %x", what, inner[4:8], about.Payload[4:8])
	}
}

func TestIPv4OptionsAreSkipped(t *testing.T) {
	s := newSeam(t, seamConfig{})
	for words := range 10 {
		p := stacktest.Packet{Src: guest4.Addr(), Dst: remote4.Addr(), Proto: stacktest.ProtoUDP, Options: bytes.Repeat([]byte{1}, (words+1)*4)}
		p.Payload = stacktest.UDP(guest4, remote4, []byte("question"))
		s.feed(p.Frame())
		s.oneDatagram(fmt.Sprintf("%d words of options", words+1), guest4, remote4, []byte("question"))
	}
}

func TestB26_OwnAddressesAnswerEcho(t *testing.T) {
	devices(t, func(t *testing.T, d stacktest.DeviceConfig) {
		s := newSeam(t, seamConfig{device: d})
		for _, own := range s.plan.Own() {
			guest, request, reply := guest4.Addr(), uint8(8), uint8(0)
			if own.Is6() {
				guest, request, reply = guest6.Addr(), 128, 129
			}
			for _, size := range []int{0, 56, 1400, 4000} {
				body := append([]byte("\x12\x34\x00\x07"), pattern(size, 1)...)
				sent := s.feed(stacktest.ICMPFrame(guest, own, request, 0, body))
				if len(sent) == 0 {
					t.Fatalf("%v: no reply to %d bytes", own, size)
				}
				p := reassemble(t, 1500, sent)
				if p.Src != own || p.Dst != guest || p.TTL != 255 || p.Payload[0] != reply || !bytes.Equal(p.Payload[4:], body) {
					t.Errorf("%v, %d bytes: replied %v to %v, TTL %d, type %d", own, size, p.Src, p.Dst, p.TTL, p.Payload[0])
				}
				if stacktest.TransportSum(p.Src, p.Dst, p.Proto, p.Payload) != 0xffff {
					t.Errorf("%v, %d bytes: wrong checksum", own, size)
				}
			}
			if s.handled() > 0 {
				t.Errorf("echo to %v reached the handler", own)
			}
		}
	})
}

// gVisor is promiscuous and would answer in every name: it must not.
func TestEchoToOthersIsTheHandlers(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		request, proto := uint8(8), uint8(stacktest.ProtoICMP)
		if guest.Addr().Is6() {
			request, proto = 128, stacktest.ProtoICMPv6
		}
		message := stacktest.ICMP(guest.Addr(), remote.Addr(), request, 0, pattern(3000, 1))
		p := stacktest.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: proto, Payload: message, ID: 9}
		ways := map[string][][]byte{"whole": {p.Frame()}, "in fragments": p.Fragments(1500)}
		if guest.Addr().Is6() {
			q := p
			q.ExtensionType, q.Extensions = 0, []byte{0, 0, 1, 4, 0, 0, 0, 0}
			ways["behind hop-by-hop options"] = [][]byte{q.Frame()}
			q.ExtensionType = 60
			ways["behind destination options"] = [][]byte{q.Frame()}
		}
		for name, frames := range ways {
			sent := s.feed(frames...)
			if len(sent) > 0 {
				t.Errorf("%s: the stack answered %+v", name, sent[0])
			}
			if len(s.icmp) != 1 || !bytes.Equal(s.icmp[0].Data, message) || s.icmp[0].TTL != 64 {
				t.Errorf("%s: %d messages handled, want the one", name, len(s.icmp))
			}
		}
	})
}

func TestB23_FragmentsAreReassembled(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		for i, size := range []int{1500, 60000, 65507} {
			if guest.Addr().Is6() && size > 60000 {
				continue
			}
			data := pattern(size, 5)
			p := stacktest.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: stacktest.ProtoUDP, ID: uint32(100 + i), Payload: stacktest.UDP(guest, remote, data)}
			frames := p.Fragments(1500)
			if sent := s.feed(frames...); len(sent) > 0 {
				t.Errorf("%d bytes: sent %+v", size, sent[0])
			}
			s.oneDatagram(fmt.Sprintf("%d bytes", size), guest, remote, data)
			// In the opposite order, the last one first.
			p.ID += 1000
			frames = p.Fragments(1500)
			for l, r := 0, len(frames)-1; l < r; l, r = l+1, r-1 {
				frames[l], frames[r] = frames[r], frames[l]
			}
			s.feed(frames...)
			s.oneDatagram(fmt.Sprintf("%d bytes backwards", size), guest, remote, data)
			// One is missing.
			p.ID += 1000
			frames = p.Fragments(1500)
			s.silent("a missing fragment", frames[1:]...)
		}
		// The whole datagram in one super-frame, past the first buffer.
		data := pattern(60000, 6)
		s.feed(stacktest.UDPFrame(guest, remote, data))
		s.oneDatagram("one large frame", guest, remote, data)
	})
}

func TestB42_FragmentsThatDoNotFit(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		base := stacktest.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: stacktest.ProtoUDP}
		payload := stacktest.UDP(guest, remote, make([]byte, 3000))
		frag := func(id uint32, off, end int, more bool) []byte {
			p := base
			p.ID, p.Offset, p.More, p.Payload = id, off, more, payload[off:end]
			return p.Frame()
		}
		// Overlapping ones, RFC 5722 and RFC 8900: the lot is dropped.
		s.feed(frag(1, 0, 1600, true), frag(1, 1400, 3008, false))
		if s.handled() > 0 {
			t.Error("overlapping fragments were joined")
		}
		// Past the largest packet.
		over := base
		over.ID, over.Offset, over.Payload = 2, 65528, make([]byte, 600)
		first := base
		first.ID, first.More, first.Payload = 2, true, make([]byte, 65528)
		first.Payload = first.Payload[:1480]
		s.feed(first.Frame(), over.Frame())
		if s.handled() > 0 {
			t.Error("an oversized packet was joined")
		}
		// Endless ones: first fragments only.
		for id := range uint32(2000) {
			s.feed(frag(1000+id, 0, 1480, true))
			if s.handled() > 0 {
				t.Fatal("a lone fragment was handled")
			}
		}
		s.feed(stacktest.UDPFrame(guest, remote, []byte("still here")))
		s.oneDatagram("after the flood", guest, remote, []byte("still here"))
	})
}

func TestIPv6ExtensionHeaders(t *testing.T) {
	s := newSeam(t, seamConfig{})
	pad := []byte{0, 0, 1, 4, 0, 0, 0, 0}
	for name, typ := range map[string]uint8{"hop-by-hop options": 0, "destination options": 60} {
		for count := 1; count <= 3; count++ {
			p := stacktest.Packet{
				Src: guest6.Addr(), Dst: remote6.Addr(), Proto: stacktest.ProtoUDP, ExtensionType: typ,
				Payload: stacktest.UDP(guest6, remote6, []byte("question")),
			}
			for i := range count {
				ext := bytes.Clone(pad)
				ext[0] = 60
				if i == count-1 {
					ext[0] = stacktest.ProtoUDP
				}
				p.Extensions = append(p.Extensions, ext...)
			}
			s.feed(p.Frame())
			s.oneDatagram(fmt.Sprintf("%d %s", count, name), guest6, remote6, []byte("question"))
		}
	}
}

// A UDP super-datagram is handed on whole, with the size of its pieces.
func TestUDPSuperDatagram(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{device: stacktest.DeviceConfig{Offload: true}})
		data := pattern(12_345, 8)
		s.dev.InjectVNet(stacktest.VNetHdr{Flags: stacktest.NeedsCsum, GSOType: stacktest.GSOUDPL4, GSOSize: 1200}, stacktest.UDPFrame(guest, remote, data))
		s.run()
		s.oneDatagram("super-datagram", guest, remote, data)
		if s.udp[0].SegmentSize != 1200 {
			t.Errorf("SegmentSize = %d, want 1200", s.udp[0].SegmentSize)
		}
		s.feed(stacktest.UDPFrame(guest, remote, data))
		s.oneDatagram("one datagram", guest, remote, data)
		if s.udp[0].SegmentSize != 0 {
			t.Error("the super-datagram's size stuck")
		}
	})
}

// Every batch ends with one Flush, and no frame is left behind.
func TestBatches(t *testing.T) {
	s := newSeam(t, seamConfig{})
	for i := range 200 {
		s.dev.Inject(stacktest.UDPFrame(guest4, remote4, fmt.Appendf(nil, "%d", i)))
	}
	s.run()
	if len(s.udp) != 200 {
		t.Fatalf("handled %d of 200", len(s.udp))
	}
	for i, p := range s.udp {
		if string(p.Data[8:]) != fmt.Sprint(i) {
			t.Fatalf("datagram %d is %q", i, p.Data[8:])
		}
	}
	if s.flushes < 200/8 || s.flushes > 60 {
		t.Errorf("%d flushes for 200 frames", s.flushes)
	}
}

func TestB3_DeviceGone(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EBADFD, unix.ENODEV} {
		s := newSeam(t, seamConfig{})
		s.dev.Fail(errno)
		for range 3 {
			s.poller.Ready(s.dev.FD(), unix.EPOLLIN)
			if err := s.shard.Turn(0); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case err := <-s.stack.Failed():
			if !errors.Is(err, stack.ErrDeviceGone) {
				t.Errorf("%v: failed with %v", errno, err)
			}
		default:
			t.Errorf("%v was not noticed", errno)
		}
		if len(s.poller.Watched()) > 0 {
			t.Errorf("%v: the device is still watched: a busy loop", errno)
		}
		if n := s.dev.Reads(); n != 1 {
			t.Errorf("%v: read %d times, want once", errno, n)
		}
	}
	// The far end of a socket that stands for a TAP was closed.
	s := newSeam(t, seamConfig{})
	s.dev.InjectRaw(nil)
	s.run()
	select {
	case <-s.stack.Failed():
	default:
		t.Error("the end of the stream was not noticed")
	}
	// A link that is down comes back.
	s = newSeam(t, seamConfig{})
	s.dev.Fail(unix.EIO)
	s.poller.Ready(s.dev.FD(), unix.EPOLLIN)
	if err := s.shard.Turn(0); err != nil {
		t.Fatal(err)
	}
	s.dev.Fail(0)
	s.feed(validFrames()["UDP"])
	s.oneDatagram("after EIO", guest4, remote4, []byte("question"))
}
