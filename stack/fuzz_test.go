package stack_test

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// FuzzReceive feeds three frames in a row, with whatever virtio header, to a
// stack that accepts every connection. It must survive, answer in well-formed
// frames only, and still answer ARP afterwards (B42).
func FuzzReceive(f *testing.F) {
	for _, frame := range validFrames() {
		f.Add(uint8(0), uint16(0), frame, frame, frame)
		f.Add(uint8(testnet.NeedsCsum), uint16(1200), frame, []byte{}, frame[:len(frame)/2])
	}
	large := testnet.Packet{Src: guest4.Addr(), Dst: remote4.Addr(), Proto: stack.ProtoUDP, ID: 7, Payload: testnet.Datagram(guest4, remote4, make([]byte, 3000))}
	f.Add(uint8(0), uint16(0), large.Fragments(1500)[0], large.Fragments(1500)[1], large.Fragments(1500)[2])
	large.Src, large.Dst = guest6.Addr(), remote6.Addr()
	f.Add(uint8(0), uint16(0), large.Fragments(1500)[0], large.Fragments(1500)[1], large.Fragments(1500)[2])
	f.Add(uint8(0), uint16(0),
		testnet.TCP(guest4, remote4, header.TCPFlagSyn, 1, 0, nil),
		testnet.TCP(guest4, remote4, header.TCPFlagAck, 2, 1, []byte("x")),
		testnet.TCP(guest4, remote4, header.TCPFlagRst, 2, 1, nil))
	f.Add(uint8(0), uint16(0),
		testnet.ICMP(guest4.Addr(), remote4.Addr(), 3, 1, append(make([]byte, 4), testnet.TCP(guest4, remote4, header.TCPFlagSyn, 1, 0, nil)[14:]...)),
		solicit(guest6.Addr(), remote6.Addr()), []byte{0})
	f.Fuzz(func(t *testing.T, flags uint8, gso uint16, a, b, c []byte) {
		s := newSeam(t, seamConfig{device: testnet.DeviceConfig{Offload: gso%2 == 0}, adverts: routerAdvertisement()})
		for _, frame := range [][]byte{a, b, c} {
			if len(frame) == 0 {
				continue // the end of a stream, not a frame
			}
			start, offset := ownChecksum(frame)
			s.dev.InjectVNet(testnet.VNetHdr{Flags: flags, GSOType: uint8(gso >> 8), GSOSize: gso, CsumStart: start, CsumOffset: offset}, frame)
		}
		s.run()
		accepted := make(map[stack.Tuple]bool)
		for _, y := range s.syns {
			q := y.Quote()
			s.stack.SendICMPError(y.Dst.Addr(), stack.ICMPError{Type: 3, Code: 1}, &q)
			s.stack.SendReset(y)
			if !accepted[y.Key] { // as a forwarder has to see to
				accepted[y.Key] = true
				s.stack.Accept(y, func(*stack.Conn, unix.Errno) {})
			}
		}
		for _, f := range s.dev.Sent() {
			if len(f.Data) >= 14 && binary.BigEndian.Uint16(f.Data[12:]) == testnet.EtherARP {
				continue
			}
			if _, err := f.Parse(); err != nil {
				t.Errorf("sent a bad frame: %v\n%x", err, f.Data)
			}
		}
		s.dev.Inject(validFrames()["ARP"])
		s.run()
		answered := false
		for _, f := range s.dev.Sent() {
			answered = answered || binary.BigEndian.Uint16(f.Data[12:]) == testnet.EtherARP
		}
		if !answered {
			t.Error("ARP is not answered any more")
		}
	})
}

// ownChecksum is where a frame without options has its transport checksum, so that it
// counts as vouched for. FuzzOffloads tries all other places.
func ownChecksum(frame []byte) (start, offset uint16) {
	if len(frame) < 24 {
		return 0, 0
	}
	start, proto := 14+20, frame[23]
	if frame[14]>>4 == 6 {
		start, proto = 14+40, frame[20]
	}
	return start, map[byte]uint16{stack.ProtoTCP: 16, stack.ProtoUDP: 6, stack.ProtoICMP: 2, stack.ProtoICMPv6: 2}[proto]
}

// FuzzParse: whatever the bytes and wherever they are cut in two, what the parser
// takes for a packet lies within them, and quotes are read no further.
func FuzzParse(f *testing.F) {
	for _, frame := range validFrames() {
		for n := 14; n <= min(len(frame), 14+60); n++ {
			f.Add(frame[12:14], frame[14:n], uint8(n))
		}
	}
	quote := testnet.TCP(remote4, guest4, header.TCPFlagAck, 1, 1, nil)[14:]
	f.Add([]byte{8, 0}, testnet.ICMP(guest4.Addr(), remote4.Addr(), 3, 4, append(make([]byte, 4), quote...))[14:], uint8(255))
	f.Fuzz(func(t *testing.T, etherType, b []byte, at uint8) {
		if len(etherType) < 2 {
			return
		}
		cut := min(int(at), len(b))
		var p stack.Packet
		if !p.Parse(tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(etherType)), b[:cut:cut], b[cut:]) {
			return
		}
		if !p.Src.IsValid() || p.Src.Is4() != p.Dst.Is4() {
			t.Errorf("from %v to %v", p.Src, p.Dst)
		}
		if len(p.Head) > cut || len(p.Tail) > len(b)-cut || len(p.Head)+len(p.Tail) > len(b)-20 {
			t.Errorf("a head of %d and a tail of %d bytes in %d and %d", len(p.Head), len(p.Tail), cut, len(b)-cut)
		}
		guest, outside, ok := p.QuotedTCP()
		if ok && (!guest.IsValid() || !outside.IsValid() || guest.Addr().Is4() != (p.Proto == stack.ProtoICMP)) {
			t.Errorf("a quote of %v and %v", guest, outside)
		}
	})
}

// FuzzGuestICMP: an error from the guest, about a connection that there is or about
// anything else, is not answered by another (RFC 1122 section 3.2.2, RFC 4443 section
// 2.4), and its quote is understood as another parser understands it.
func FuzzGuestICMP(f *testing.F) {
	segment := testnet.TCP(remote4, guest4, header.TCPFlagSyn|header.TCPFlagAck, 1, 2, nil)[14:]
	segment6 := testnet.TCP(remote6, guest6, header.TCPFlagSyn|header.TCPFlagAck, 1, 2, nil)[14:]
	datagram := testnet.UDP(remote4, guest4, 1, []byte("x"))[14:]
	for _, n := range []int{0, 20, 24, 28, 40} {
		f.Add(false, uint8(3), uint8(1), append(make([]byte, 4), segment[:n]...))
		f.Add(true, uint8(1), uint8(4), append(make([]byte, 4), segment6[:n+20]...))
	}
	f.Add(false, uint8(3), uint8(4), append([]byte{0, 0, 5, 0}, segment...))
	f.Add(true, uint8(2), uint8(0), append([]byte{0, 0, 5, 0}, segment6...))
	f.Add(false, uint8(11), uint8(0), append(make([]byte, 4), datagram...))
	f.Add(false, uint8(5), uint8(1), append([]byte{10, 0, 2, 2}, datagram...))
	f.Fuzz(func(t *testing.T, v6 bool, typ, code uint8, body []byte) {
		guest, remote, etherType, proto := guest4, remote4, testnet.EtherIPv4, uint8(stack.ProtoICMP)
		isError := typ == 3 || typ == 4 || typ == 5 || typ == 11 || typ == 12
		if v6 {
			guest, remote, etherType, proto = guest6, remote6, testnet.EtherIPv6, stack.ProtoICMPv6
			isError = typ < 128
		}
		if len(body) > 60_000 {
			return
		}
		s := newSeam(t, seamConfig{})
		s.feed(testnet.SYN(guest, remote, 1))
		s.stack.Accept(s.syns[0], func(*stack.Conn, unix.Errno) {})
		s.sent()
		frame := testnet.ICMP(guest.Addr(), remote.Addr(), typ, code, body)
		for _, p := range s.feed(frame) {
			if isError && p.Proto != stack.ProtoTCP {
				t.Errorf("an error of type %d is answered by %+v", typ, p)
			}
		}
		var p stack.Packet
		if !p.Parse(tcpip.NetworkProtocolNumber(etherType), frame[14:], nil) {
			t.Fatal("the packet does not parse")
		}
		inside, outside, ok := p.QuotedTCP()
		if ok && s.handled() > 0 {
			t.Error("an error about a connection reached the handler")
		}
		whole := testnet.Packet{Proto: proto, Payload: frame[len(frame)-len(body)-4:]}
		q, parsed := whole.Quoted()
		if !parsed || q.Src.Is6() != v6 || q.Offset > 0 || whole.Payload[8+6] == header.IPv6FragmentHeader && v6 {
			return
		}
		about := typ == 3 && !v6 || (typ == 1 || typ == 2) && v6
		if want := about && q.Proto == stack.ProtoTCP && len(q.Payload) >= 4; ok != want {
			t.Errorf("a quote of %+v in type %d: %v", q, typ, ok)
		} else if ok && (inside != q.To() || outside != q.From()) {
			t.Errorf("a quote of %v and %v, want %v and %v", inside, outside, q.To(), q.From())
		}
	})
}
