package stack_test

import (
	"bytes"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

func TestB26_LastHop(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		gateway, exceeded, unreachable, echo, proto := s.plan.Gateway, uint8(11), uint8(3), uint8(8), uint8(stack.ProtoICMP)
		if guest.Addr().Is6() {
			gateway, exceeded, unreachable, echo, proto = s.plan.Gateway6, 3, 1, 128, stack.ProtoICMPv6
		}
		probes := map[string]testnet.Packet{
			"UDP":  {Proto: stack.ProtoUDP, Payload: testnet.Datagram(guest, remote, []byte("probe"))},
			"echo": {Proto: proto, Payload: testnet.ICMPMessage(guest.Addr(), remote.Addr(), echo, 0, []byte("\x00\x01\x00\x01ping"))},
			"SYN":  {Proto: stack.ProtoTCP, Payload: testnet.Segment(guest, remote, header.TCPFlagSyn, 7, 0, nil)},
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
		p = testnet.Packet{
			Src: guest.Addr(), Dst: remote.Addr(), TTL: 1, Proto: proto,
			Payload: testnet.ICMPMessage(guest.Addr(), remote.Addr(), unreachable, 1, append(make([]byte, 4), p.Frame()[14:]...)),
		}
		if sent := s.feed(p.Frame()); len(sent) > 0 {
			t.Errorf("an ICMP error with TTL 1 had the answer %+v", sent)
		}
	})
}

func TestTTL1ToWhereNoHopIs(t *testing.T) {
	s := newSeam(t, seamConfig{})
	udp := func(src, dst string) testnet.Packet {
		from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
		return testnet.Packet{Src: from.Addr(), Dst: to.Addr(), TTL: 1, Proto: stack.ProtoUDP, Payload: testnet.Datagram(from, to, []byte("x"))}
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
func checkError(t *testing.T, what string, got testnet.Packet, from netip.Addr, typ, code uint8, about testnet.Packet) {
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
	if about.Proto == stack.ProtoTCP && !bytes.Equal(inner[4:8], about.Payload[4:8]) {
		t.Errorf("%s: quotes sequence number %x, want %x", what, inner[4:8], about.Payload[4:8])
	}
}
