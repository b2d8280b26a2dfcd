package stack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// validFrames is one good frame of each kind that has an effect.
func validFrames() map[string][]byte {
	return map[string][]byte{
		"ARP":          testnet.ARP(1, testnet.GuestMAC(), guest4.Addr(), [6]byte{}, netip.MustParseAddr("10.0.2.2")),
		"UDP":          testnet.UDP(guest4, remote4, testnet.TTL, []byte("question")),
		"UDP, IPv6":    testnet.UDP(guest6, remote6, testnet.TTL, []byte("question")),
		"SYN":          testnet.TCP(guest4, remote4, header.TCPFlagSyn, 1, 0, nil),
		"SYN, IPv6":    testnet.TCP(guest6, remote6, header.TCPFlagSyn, 1, 0, nil),
		"echo":         testnet.ICMP(guest4.Addr(), remote4.Addr(), 8, 0, []byte("\x12\x34\x00\x01ping")),
		"echo, IPv6":   testnet.ICMP(guest6.Addr(), remote6.Addr(), 128, 0, []byte("\x12\x34\x00\x01ping")),
		"own echo":     testnet.ICMP(guest4.Addr(), netip.MustParseAddr("10.0.2.2"), 8, 0, []byte("\x12\x34\x00\x01ping")),
		"solicitation": solicit(guest6.Addr(), netip.MustParseAddr("fd00::2")),
		"options": testnet.Packet{
			Src: guest4.Addr(), Dst: remote4.Addr(), Proto: stack.ProtoUDP, Options: []byte{1, 1, 1, 0},
			Payload: testnet.Datagram(guest4, remote4, []byte("question")),
		}.Frame(),
		"extension header": testnet.Packet{
			Src: guest6.Addr(), Dst: remote6.Addr(), Proto: stack.ProtoUDP, ExtensionType: 60, Extensions: []byte{0, 0, 1, 4, 0, 0, 0, 0},
			Payload: testnet.Datagram(guest6, remote6, []byte("question")),
		}.Frame(),
	}
}

// B42: a frame that was cut anywhere does nothing, and does not hurt what
// comes after it.
func TestB42_TruncatedFramesDoNothing(t *testing.T) {
	devices(t, func(t *testing.T, d testnet.DeviceConfig) {
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
	s := newSeam(t, seamConfig{device: testnet.DeviceConfig{Offload: true}})
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
			testnet.FixIPv4(b)
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
	devices(t, func(t *testing.T, d testnet.DeviceConfig) {
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
	s := newSeam(t, seamConfig{device: testnet.DeviceConfig{Offload: true}})
	for _, name := range []string{"UDP", "UDP, IPv6", "SYN", "SYN, IPv6"} {
		frame := validFrames()[name]
		at, offset := len(frame)-2-8, 6 // UDP: the checksum before eight bytes of data
		if name[:3] == "SYN" {
			at, offset = len(frame)-4, 16
		}
		binary.BigEndian.PutUint16(frame[at:], 0x1234)
		for _, flags := range []uint8{testnet.NeedsCsum, testnet.DataValid} {
			s.forget()
			s.dev.InjectVNet(testnet.VNetHdr{Flags: flags, CsumStart: uint16(at - offset), CsumOffset: uint16(offset)}, frame)
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
		frame := testnet.UDP(guest, remote, testnet.TTL, []byte("x"))
		s.feed(append(frame, bytes.Repeat([]byte{0xee}, 46)...))
		s.oneDatagram("padded", guest, remote, []byte("x"))
		// Padding that reaches into the second read buffer.
		s.feed(append(frame, bytes.Repeat([]byte{0xee}, 9000)...))
		s.oneDatagram("padded by 9000 bytes", guest, remote, []byte("x"))
		// A datagram may be shorter than the packet that carries it (RFC 768).
		p := testnet.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: stack.ProtoUDP}
		p.Payload = append(testnet.Datagram(guest, remote, []byte("y")), 0, 0, 0)
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
		s.silent("UDP from "+src, testnet.UDP(from, remote, testnet.TTL, []byte("x")))
		s.silent("UDP to the gateway from "+src, testnet.UDP(from, netip.AddrPortFrom(own, 53), testnet.TTL, []byte("x")))
		s.silent("SYN from "+src, testnet.TCP(from, remote, header.TCPFlagSyn, 1, 0, nil))
		s.silent("stray ACK from "+src, testnet.TCP(from, remote, header.TCPFlagAck, 1, 1, nil))
		s.silent("echo from "+src, testnet.ICMP(a, remote.Addr(), echo, 0, []byte("\x00\x01\x00\x01ping")))
		s.silent("echo to the gateway from "+src, testnet.ICMP(a, own, echo, 0, []byte("\x00\x01\x00\x01ping")))
		p := testnet.Packet{Src: a, Dst: remote.Addr(), Proto: stack.ProtoUDP, Payload: testnet.Datagram(from, remote, make([]byte, 3000))}
		s.silent("fragments from "+src, p.Fragments(1500)...)
	}
	// The unspecified address is for those who have none yet: DHCP and
	// duplicate address detection.
	nobody4, nobody6 := netip.AddrPortFrom(netip.IPv4Unspecified(), 68), netip.AddrPortFrom(netip.IPv6Unspecified(), 546)
	s.silent("SYN from 0.0.0.0", testnet.TCP(nobody4, remote4, header.TCPFlagSyn, 1, 0, nil))
	s.silent("SYN from ::", testnet.TCP(nobody6, remote6, header.TCPFlagSyn, 1, 0, nil))
	s.silent("UDP from ::", testnet.UDP(nobody6, remote6, testnet.TTL, []byte("x")))
	s.silent("echo from 0.0.0.0", testnet.ICMP(nobody4.Addr(), s.plan.Gateway, 8, 0, []byte("\x00\x01\x00\x01ping")))
	s.silent("echo from ::", testnet.ICMP(nobody6.Addr(), s.plan.Gateway6, 128, 0, []byte("\x00\x01\x00\x01ping")))
	everybody := netip.MustParseAddrPort("255.255.255.255:67")
	s.feed(testnet.UDP(nobody4, everybody, testnet.TTL, []byte("discover")))
	s.oneDatagram("DHCP", nobody4, everybody, []byte("discover"))
}

// Neither family leaks into the other's handlers.
func TestProtocolsThatAreNotServed(t *testing.T) {
	s := newSeam(t, seamConfig{})
	for proto := range 256 {
		for _, pair := range [][2]netip.Addr{{guest4.Addr(), remote4.Addr()}, {guest6.Addr(), remote6.Addr()}} {
			p := testnet.Packet{Src: pair[0], Dst: pair[1], Proto: uint8(proto), Payload: make([]byte, 40)}
			sent := s.feed(p.Frame())
			// gVisor may complain by ICMP, as a router does.
			for _, q := range sent {
				if q.Proto != stack.ProtoICMP && q.Proto != stack.ProtoICMPv6 {
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
		case testnet.EtherARP, testnet.EtherIPv4, testnet.EtherIPv6:
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

func TestIPv4OptionsAreSkipped(t *testing.T) {
	s := newSeam(t, seamConfig{})
	for words := range 10 {
		p := testnet.Packet{Src: guest4.Addr(), Dst: remote4.Addr(), Proto: stack.ProtoUDP, Options: bytes.Repeat([]byte{1}, (words+1)*4)}
		p.Payload = testnet.Datagram(guest4, remote4, []byte("question"))
		s.feed(p.Frame())
		s.oneDatagram(fmt.Sprintf("%d words of options", words+1), guest4, remote4, []byte("question"))
	}
}

func TestB26_OwnAddressesAnswerEcho(t *testing.T) {
	devices(t, func(t *testing.T, d testnet.DeviceConfig) {
		s := newSeam(t, seamConfig{device: d})
		for _, own := range s.plan.Own() {
			guest, request, reply := guest4.Addr(), uint8(8), uint8(0)
			if own.Is6() {
				guest, request, reply = guest6.Addr(), 128, 129
			}
			for _, size := range []int{0, 56, 1400, 4000} {
				body := append([]byte("\x12\x34\x00\x07"), pattern(size, 1)...)
				sent := s.feed(testnet.ICMP(guest, own, request, 0, body))
				if len(sent) == 0 {
					t.Fatalf("%v: no reply to %d bytes", own, size)
				}
				p := reassemble(t, 1500, sent)
				if p.Src != own || p.Dst != guest || p.TTL != 255 || p.Payload[0] != reply || !bytes.Equal(p.Payload[4:], body) {
					t.Errorf("%v, %d bytes: replied %v to %v, TTL %d, type %d", own, size, p.Src, p.Dst, p.TTL, p.Payload[0])
				}
				if testnet.TransportSum(p.Src, p.Dst, p.Proto, p.Payload) != 0xffff {
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
		request, proto := uint8(8), uint8(stack.ProtoICMP)
		if guest.Addr().Is6() {
			request, proto = 128, stack.ProtoICMPv6
		}
		message := testnet.ICMPMessage(guest.Addr(), remote.Addr(), request, 0, pattern(3000, 1))
		p := testnet.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: proto, Payload: message, ID: 9}
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

// A UDP super-datagram is handed on whole, with the size of its pieces.
func TestUDPSuperDatagram(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{device: testnet.DeviceConfig{Offload: true}})
		data := pattern(12_345, 8)
		frame := testnet.UDP(guest, remote, testnet.TTL, data)
		s.dev.InjectVNet(testnet.VNetHdr{
			Flags: testnet.NeedsCsum, GSOType: testnet.GSOUDPL4, GSOSize: 1200,
			CsumStart: uint16(len(frame) - len(data) - 8), CsumOffset: 6,
		}, frame)
		s.run()
		s.oneDatagram("super-datagram", guest, remote, data)
		if s.udp[0].SegmentSize != 1200 {
			t.Errorf("SegmentSize = %d, want 1200", s.udp[0].SegmentSize)
		}
		s.feed(testnet.UDP(guest, remote, testnet.TTL, data))
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
		s.dev.Inject(testnet.UDP(guest4, remote4, testnet.TTL, fmt.Appendf(nil, "%d", i)))
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
	if s.flushes < 200/32 || s.flushes > 60 {
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
