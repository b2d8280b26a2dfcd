package stack_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

func TestB23_LargeDatagramsAreFragmented(t *testing.T) {
	devices(t, func(t *testing.T, d testnet.DeviceConfig) {
		families(t, func(t *testing.T, guest, remote netip.AddrPort) {
			for _, mtu := range []int{1280, 1500, 65520} {
				s := newSeam(t, seamConfig{device: d, mtu: mtu})
				header := 28
				if guest.Addr().Is6() {
					header = 48
				}
				last := uint32(0)
				for _, size := range []int{0, 1, mtu - header - 1, mtu - header, mtu - header + 1, 60000, 65507} {
					if size < 0 || size > 65507 {
						continue
					}
					data := pattern(size, 7)
					s.stack.SendUDP(remote, guest, data[:size/3], data[size/3:])
					sent := s.sent()
					if fits := size <= mtu-header; fits != (len(sent) == 1) {
						t.Errorf("MTU %d: %d bytes went in %d packets", mtu, size, len(sent))
					}
					p := reassemble(t, mtu, sent)
					if p.Src != remote.Addr() || p.Dst != guest.Addr() || p.TTL != stack.DefaultTTL {
						t.Errorf("MTU %d, %d bytes: %v to %v, TTL %d", mtu, size, p.Src, p.Dst, p.TTL)
					}
					if len(sent) > 1 && p.ID == last {
						t.Errorf("MTU %d, %d bytes: the identification was used before", mtu, size)
					}
					last = p.ID
					if len(p.Payload) != size+8 || int(binary.BigEndian.Uint16(p.Payload[4:])) != size+8 {
						t.Fatalf("MTU %d, %d bytes: UDP length %d of %d", mtu, size, binary.BigEndian.Uint16(p.Payload[4:]), len(p.Payload))
					}
					if netip.AddrPortFrom(p.Src, binary.BigEndian.Uint16(p.Payload)) != remote || binary.BigEndian.Uint16(p.Payload[2:]) != guest.Port() {
						t.Errorf("MTU %d, %d bytes: ports %x", mtu, size, p.Payload[:4])
					}
					if !bytes.Equal(p.Payload[8:], data) {
						t.Errorf("MTU %d, %d bytes: other bytes arrived", mtu, size)
					}
					if len(sent) > 1 && testnet.TransportSum(p.Src, p.Dst, p.Proto, p.Payload) != 0xffff {
						t.Errorf("MTU %d, %d bytes: the fragments' checksum is wrong", mtu, size)
					}
				}
			}
		})
	})
}

// A device that is down, full or gone loses frames, nothing more.
func TestFramesThatTheDeviceRefusesAreLost(t *testing.T) {
	s := newSeam(t, seamConfig{})
	for _, errno := range []unix.Errno{unix.EIO, unix.EAGAIN, unix.ENOBUFS, unix.EBADFD} {
		s.dev.Fail(errno)
		s.stack.SendUDP(remote4, guest4, make([]byte, 4000))
		s.stack.SendICMP(remote4.Addr(), guest4.Addr(), 64, make([]byte, 8))
		s.dev.Fail(0)
		s.stack.SendUDP(remote4, guest4, []byte("after"))
		if sent := s.sent(); len(sent) != 1 || string(sent[0].Payload[8:]) != "after" {
			t.Errorf("%v: sent %+v, want what came after", errno, sent)
		}
	}
}

// What no length field can say is not sent at all.
func TestDatagramsThatAreTooLarge(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		for _, size := range []int{65528, 70000} {
			s.stack.SendUDP(remote, guest, make([]byte, size))
			if sent := s.sent(); len(sent) > 0 {
				t.Errorf("%d bytes went out in %d packets", size, len(sent))
			}
		}
	})
	s := newSeam(t, seamConfig{})
	s.stack.SendUDP(remote4, guest4, make([]byte, 65508))
	if sent := s.sent(); len(sent) > 0 {
		t.Errorf("65508 bytes, one more than IPv4 can carry, went out in %d packets", len(sent))
	}
}

// RFC 768: a sum that comes out as zero is sent as all ones.
func TestUDPChecksumIsNeverZero(t *testing.T) {
	s := newSeam(t, seamConfig{})
	for v := range 1 << 16 {
		s.stack.SendUDP(remote6, guest6, []byte{byte(v >> 8), byte(v)})
		for _, p := range s.sent() {
			if p.Payload[6] == 0 && p.Payload[7] == 0 {
				t.Fatalf("payload %#x has no checksum", v)
			}
		}
	}
}

func TestBroadcastUDP(t *testing.T) {
	s := newSeam(t, seamConfig{})
	s.stack.SendBroadcastUDP(netip.MustParseAddrPort("10.0.2.2:67"), 68, []byte("offer"))
	sent := s.sent()
	if len(sent) != 1 || sent[0].DstMAC != broadcastMAC || sent[0].Dst != netip.MustParseAddr("255.255.255.255") {
		t.Errorf("sent %+v", sent)
	}
}

// The device finishes the checksum of a datagram where it can; ICMP is always
// whole, as raw sockets would see it without.
func TestPartialChecksums(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{device: testnet.DeviceConfig{Offload: true}})
		s.stack.SendUDP(remote, guest, []byte("answer"))
		typ := uint8(0)
		if guest.Addr().Is6() {
			typ = 129
		}
		s.stack.SendICMP(remote.Addr(), guest.Addr(), 64, []byte{typ, 0, 0, 0, 0, 1, 0, 1}, []byte("pong"))
		frames := s.dev.Sent()
		if len(frames) != 2 {
			t.Fatalf("%d frames", len(frames))
		}
		for i, f := range frames {
			if _, err := f.Parse(); err != nil {
				t.Error(err)
			}
			if partial := f.VNet.Flags&testnet.NeedsCsum != 0; partial != (i == 0) {
				t.Errorf("frame %d: partial checksum %v", i, partial)
			}
			if f.VNet.GSOType != 0 || f.VNet.GSOSize != 0 {
				t.Errorf("frame %d claims to be a super-segment: %+v", i, f.VNet)
			}
		}
	})
}

func (s *seam) syn(guest, remote netip.AddrPort, seq uint32) *stack.SYN {
	s.t.Helper()
	s.feed(testnet.TCP(guest, remote, header.TCPFlagSyn, seq, 0, nil))
	if len(s.syns) != 1 {
		s.t.Fatalf("handled %d SYNs, want 1", len(s.syns))
	}
	return s.syns[0]
}

// A SYN that nobody has accepted is handed on each time it comes: its
// retransmission is the guest's patience, and the handler's to govern.
func TestB13_SYNAndReset(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		for _, seq := range []uint32{0, 1, 0xffffffff, 0x80000000} {
			y := s.syn(guest, remote, seq)
			again := s.syn(guest, remote, seq)
			if y.Src != guest || y.Dst != remote || y.Key != again.Key {
				t.Errorf("SYN from %v to %v", y.Src, y.Dst)
			}
			s.stack.SendReset(y)
			sent := s.sent()
			if len(sent) != 1 || sent[0].Src != remote.Addr() || sent[0].Dst != guest.Addr() || sent[0].Proto != stack.ProtoTCP {
				t.Fatalf("sent %+v", sent)
			}
			b := sent[0].Payload
			if netip.AddrPortFrom(sent[0].Src, binary.BigEndian.Uint16(b)) != remote || binary.BigEndian.Uint16(b[2:]) != guest.Port() {
				t.Errorf("ports %x", b[:4])
			}
			if sent[0].TCPFlags() != header.TCPFlagRst|header.TCPFlagAck || binary.BigEndian.Uint32(b[4:]) != 0 || binary.BigEndian.Uint32(b[8:]) != seq+1 {
				t.Errorf("flags %#x, sequence %d, acknowledges %d, want a RST of 0 for %d", b[13], binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), seq+1)
			}
		}
		if n := s.stack.Conns(); n != 0 {
			t.Errorf("%d connections after refusals", n)
		}
	})
}

// An attempt that was made elsewhere is ended by a RST of sequence number zero.
func TestSendAbort(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		s.stack.SendAbort(remote, guest)
		sent := s.sent()
		if len(sent) != 1 || sent[0].Src != remote.Addr() || sent[0].Dst != guest.Addr() || sent[0].Proto != stack.ProtoTCP {
			t.Fatalf("sent %+v", sent)
		}
		b := sent[0].Payload
		if binary.BigEndian.Uint16(b) != remote.Port() || binary.BigEndian.Uint16(b[2:]) != guest.Port() ||
			sent[0].TCPFlags() != header.TCPFlagRst || binary.BigEndian.Uint64(b[4:]) != 0 {
			t.Errorf("sent %x", b)
		}
	})
}

func TestB15_ErrorsQuoteThePacket(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		gateway, codes := s.plan.Gateway, [][2]uint8{{3, 0}, {3, 1}, {3, 2}, {3, 3}, {3, 13}, {3, 15}, {11, 0}, {11, 1}, {12, 0}}
		tooBig := [2]uint8{3, 4}
		if guest.Addr().Is6() {
			gateway, codes = s.plan.Gateway6, [][2]uint8{{1, 0}, {1, 3}, {1, 4}, {1, 1}, {1, 6}, {3, 0}, {3, 1}, {4, 1}}
			tooBig = [2]uint8{2, 0}
		}
		router := netip.AddrPortFrom(remote.Addr().Next(), 0).Addr()
		about := map[string]testnet.Packet{
			"SYN": {Src: guest.Addr(), Dst: remote.Addr(), Proto: stack.ProtoTCP, Payload: testnet.Segment(guest, remote, header.TCPFlagSyn, 0x12345678, 0, nil)},
			"UDP": {Src: guest.Addr(), Dst: remote.Addr(), Proto: stack.ProtoUDP, Payload: testnet.Datagram(guest, remote, []byte("lost"))},
		}
		quotes := map[string]stack.Quote{"SYN": s.syn(guest, remote, 0x12345678).Quote(), "UDP": stack.UDPQuote(guest, remote, 4)}
		for name, q := range quotes {
			for _, code := range codes {
				e := stack.ICMPError{Type: code[0], Code: code[1]}
				s.stack.SendICMPError(netip.Addr{}, e, &q)
				s.stack.SendICMPError(router, e, &q)
				sent := s.sent()
				if len(sent) != 2 {
					t.Fatalf("%s, %v: sent %d packets, want 2", name, e, len(sent))
				}
				checkError(t, name, sent[0], gateway, code[0], code[1], about[name])
				checkError(t, name, sent[1], router, code[0], code[1], about[name])
			}
			s.stack.SendTooBig(netip.Addr{}, 1400, &q)
			sent := s.sent()
			if len(sent) != 1 {
				t.Fatalf("%s: sent %d packets, want 1", name, len(sent))
			}
			checkError(t, name, sent[0], gateway, tooBig[0], tooBig[1], about[name])
			if got := binary.BigEndian.Uint32(sent[0].Payload[4:]); got != 1400 {
				t.Errorf("%s: path MTU %d, want 1400", name, got)
			}
		}
		// RFC 1122 section 3.2.2: never about a multicast or broadcast.
		for _, dst := range []string{"224.0.0.251", "255.255.255.255", "ff02::fb"} {
			q := stack.Quote{Src: guest.Addr(), Dst: netip.MustParseAddr(dst), Proto: stack.ProtoUDP}
			if q.Dst.Is4() != guest.Addr().Is4() {
				continue
			}
			s.stack.SendICMPError(netip.Addr{}, stack.ICMPError{Type: 3, Code: 3}, &q)
			if sent := s.sent(); len(sent) > 0 {
				t.Errorf("an error about %s was sent", dst)
			}
		}
	})
}

// A link-local guest sees the gateway's link-local address.
func TestErrorToALinkLocalGuest(t *testing.T) {
	s := newSeam(t, seamConfig{})
	q := stack.UDPQuote(netip.MustParseAddrPort("[fe80::100]:9"), remote6, 1)
	s.stack.SendICMPError(netip.Addr{}, stack.ICMPError{Type: 1, Code: 4}, &q)
	if sent := s.sent(); len(sent) != 1 || sent[0].Src != s.plan.GatewayLinkLocal {
		t.Errorf("sent %+v", sent)
	}
}

// Segments that belong to nothing have a RST of gVisor's, and only those that
// are not resets themselves.
func TestStraySegments(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		for flags := range header.TCPFlags(32) {
			if flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) == header.TCPFlagSyn {
				continue
			}
			sent := s.feed(testnet.TCP(guest, remote, flags, 100, 200, nil))
			if s.handled() > 0 {
				t.Errorf("flags %#x reached the handler", flags)
			}
			want := 1
			if flags&header.TCPFlagRst != 0 {
				want = 0
			}
			if len(sent) != want || want == 1 && (sent[0].Proto != stack.ProtoTCP || sent[0].TCPFlags()&header.TCPFlagRst == 0) {
				t.Errorf("flags %#x: sent %+v, want %d resets", flags, sent, want)
			}
		}
		// The same in fragments.
		p := testnet.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: stack.ProtoTCP, Payload: testnet.Segment(guest, remote, header.TCPFlagAck, 1, 1, make([]byte, 100))}
		if sent := s.feed(p.Fragments(88)...); len(sent) != 1 || s.handled() > 0 {
			t.Errorf("a stray segment in fragments: %d frames sent, %d packets handled, want one reset", len(sent), s.handled())
		}
	})
}
