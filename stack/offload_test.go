package stack_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
)

// tunnelled is a datagram whose payload is an IP packet behind a tunnel's header of
// size bytes, and the virtio-net header by which a guest's kernel leaves the checksum
// of the inner transport to the network card. The outer checksum is the right one of
// the whole once that is done, as Linux computes it (lco_csum), or none.
func tunnelled(guest, remote netip.AddrPort, inner testnet.Packet, size int, sum bool) (hdr testnet.VNetHdr, frame, want []byte) {
	offset := map[uint8]int{unix.IPPROTO_TCP: 16, unix.IPPROTO_UDP: 6}[inner.Proto]
	packet := inner.Frame()[14:]
	want = append(pattern(size, 1), packet...)
	frame = testnet.UDP(guest, remote, testnet.TTL, want)
	outer := len(frame) - len(want) - 8
	if !sum {
		frame[outer+6], frame[outer+7] = 0, 0
	}
	start := len(frame) - len(inner.Payload)
	partial := testnet.PseudoSum(inner.Src, inner.Dst, inner.Proto, len(inner.Payload))
	binary.BigEndian.PutUint16(frame[start+offset:], partial)
	return testnet.VNetHdr{Flags: testnet.NeedsCsum, CsumStart: uint16(start), CsumOffset: uint16(offset)}, frame, want
}

// B45: what a tunnel inside the guest carries leaves with its checksum filled in:
// IP directly in UDP (fou), behind the headers of GUE, VXLAN and GENEVE with options, and
// wherever the checksum may come to lie between the two buffers that a frame is read
// into.
func TestB45_InnerChecksumIsFilledIn(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{device: testnet.DeviceConfig{USO: true}})
		sizes := []int{0, 4, 8 + 14, 8 + 20 + 14}
		for size := 1950; size < 2060; size++ {
			sizes = append(sizes, size)
		}
		for _, ends := range [][2]netip.AddrPort{{guest4, remote4}, {guest6, remote6}} {
			for _, data := range []int{0, 1, 1400, 1401, 30_000} {
				segment := testnet.Segment(ends[0], ends[1], header.TCPFlagAck, 1, 1, pattern(data, 2))
				datagram := testnet.Datagram(ends[0], ends[1], pattern(data, 3))
				for _, inner := range []testnet.Packet{
					{Src: ends[0].Addr(), Dst: ends[1].Addr(), Proto: unix.IPPROTO_TCP, Payload: segment},
					{Src: ends[0].Addr(), Dst: ends[1].Addr(), Proto: unix.IPPROTO_UDP, Payload: datagram},
				} {
					for _, size := range sizes {
						for _, sum := range []bool{true, false} {
							if !sum && guest.Addr().Is6() {
								continue
							}
							hdr, frame, want := tunnelled(guest, remote, inner, size, sum)
							s.forget()
							s.dev.InjectVNet(hdr, frame)
							s.run()
							s.oneDatagram(fmt.Sprintf("protocol %d, %d bytes behind %d, outer sum %v", inner.Proto, data, size, sum), guest, remote, want)
						}
					}
				}
			}
		}
	})
}

// B45: zero is "no checksum" of UDP, so one that comes out as zero is written as
// its other form.
func TestB45_InnerChecksumOfZero(t *testing.T) {
	s := newSeam(t, seamConfig{device: testnet.DeviceConfig{Offload: true}})
	datagram := testnet.Datagram(guest4, remote4, []byte{0, 0})
	sum := binary.BigEndian.Uint16(datagram[6:])
	datagram = testnet.Datagram(guest4, remote4, binary.BigEndian.AppendUint16(nil, sum)) // adds up to 0xffff
	inner := testnet.Packet{Src: guest4.Addr(), Dst: remote4.Addr(), Proto: unix.IPPROTO_UDP, Payload: datagram}
	hdr, frame, want := tunnelled(guest4, remote4, inner, 8, false)
	s.dev.InjectVNet(hdr, frame)
	s.run()
	s.oneDatagram("a sum of zero", guest4, remote4, want)
	if got := s.udp[0].Data[len(s.udp[0].Data)-4:]; got[0] != 0xff || got[1] != 0xff {
		t.Errorf("the checksum is %#x", got[:2])
	}
}

// B45: to have the inner checksum filled in is not to have the outer one vouched for.
func TestB45_OuterChecksumStillCounts(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{device: testnet.DeviceConfig{Offload: true}})
		inner := testnet.Packet{Src: guest4.Addr(), Dst: remote4.Addr(), Proto: unix.IPPROTO_TCP,
			Payload: testnet.Segment(guest4, remote4, header.TCPFlagAck, 1, 1, []byte("data"))}
		hdr, frame, _ := tunnelled(guest, remote, inner, 8, true)
		frame[len(frame)-len(inner.Payload)-30] ^= 1 // the tunnel's header
		s.dev.InjectVNet(hdr, frame)
		s.run()
		if s.handled() > 0 {
			t.Error("a datagram with a wrong checksum was handled")
		}
	})
}

// B42: a header that does not fit its packet has the packet dropped.
func TestB42_LyingOffloads(t *testing.T) {
	const udp, end = 14 + 20, 14 + 20 + 8 + 100
	needs := func(start, offset int) testnet.VNetHdr {
		return testnet.VNetHdr{Flags: testnet.NeedsCsum, CsumStart: uint16(start), CsumOffset: uint16(offset)}
	}
	gso := func(h testnet.VNetHdr, typ uint8) testnet.VNetHdr {
		h.GSOType, h.GSOSize = typ, 10
		return h
	}
	s := newSeam(t, seamConfig{device: testnet.DeviceConfig{USO: true}})
	for name, c := range map[string]struct {
		hdr     testnet.VNetHdr
		handled bool
	}{
		"the datagram's own":             {needs(udp, 6), true},
		"its last two bytes":             {needs(end-2, 0), true},
		"a field far behind the start":   {needs(udp+8, 98), true},
		"before the frame":               {needs(0, 0), false},
		"in the Ethernet header":         {needs(12, 2), false},
		"the IP header":                  {needs(14, 10), false},
		"from the IP header on":          {needs(14, 26), false},
		"half behind the end":            {needs(end-1, 0), false},
		"behind the end":                 {needs(end, 0), false},
		"far behind the end":             {needs(udp+8, 60000), false},
		"the largest numbers":            {needs(0xffff, 0xffff), false},
		"TCP in a datagram":              {gso(needs(udp, 6), testnet.GSOTCPv4), false},
		"TCP over IPv6 in a datagram":    {gso(needs(udp, 6), testnet.GSOTCPv6), false},
		"inner TCP to be cut":            {gso(needs(udp+8+20, 16), testnet.GSOTCPv4), false},
		"inner datagrams to be cut":      {gso(needs(udp+8+20, 6), testnet.GSOUDPL4), false},
		"datagrams to be cut":            {gso(needs(udp, 6), testnet.GSOUDPL4), true},
		"a way to cut that there is not": {gso(needs(udp, 6), 3), false},
	} {
		frame := testnet.UDP(guest4, remote4, testnet.TTL, pattern(100, 1))
		frame[udp+6], frame[udp+7] = 0, 0 // what is dropped is not for its checksum
		s.forget()
		s.dev.InjectVNet(c.hdr, frame)
		s.run()
		if got := s.handled() == 1; got != c.handled {
			t.Errorf("%s: handled %v, want %v", name, got, c.handled)
		}
	}
}

// FuzzOffloads: whatever the header says about a datagram, it is dropped, or what is
// handled is what a network card would have sent.
func FuzzOffloads(f *testing.F) {
	inner := testnet.Packet{Src: guest6.Addr(), Dst: remote6.Addr(), Proto: unix.IPPROTO_TCP,
		Payload: testnet.Segment(guest6, remote6, header.TCPFlagAck, 1, 1, []byte("data"))}
	for _, size := range []int{0, 22, 2000} {
		hdr, _, payload := tunnelled(guest4, remote4, inner, size, false)
		f.Add(hdr.Flags, hdr.GSOType, hdr.CsumStart, hdr.CsumOffset, payload)
	}
	f.Add(uint8(1), uint8(0), uint16(34), uint16(6), []byte("plain"))
	f.Add(uint8(1), uint8(0), uint16(34), uint16(7), []byte("nearly"))
	f.Fuzz(func(t *testing.T, flags, gso uint8, start, offset uint16, payload []byte) {
		if len(payload) > 60_000 {
			return
		}
		s := newSeam(t, seamConfig{device: testnet.DeviceConfig{USO: true}})
		frame := testnet.UDP(guest4, remote4, testnet.TTL, payload)
		frame[40], frame[41] = 0, 0 // so that nothing is dropped for its checksum
		s.dev.InjectVNet(testnet.VNetHdr{Flags: flags, GSOType: gso, GSOSize: 1000, CsumStart: start, CsumOffset: offset}, frame)
		s.run()
		if len(s.udp) != s.handled() || len(s.udp) > 1 {
			t.Fatalf("handled %d", s.handled())
		}
		if len(s.udp) == 0 || flags&testnet.NeedsCsum == 0 || start == 34 && offset == 6 {
			return
		}
		if at := int(start) + int(offset); int(start) < 34 || at+2 > len(frame) {
			t.Fatalf("handled with a checksum at %d+%d in %d bytes", start, offset, len(frame))
		}
		fill(frame[start:], int(offset))
		if want := frame[34:]; int(start)+int(offset) >= 42 && !bytes.Equal(s.udp[0].Data, want) {
			t.Errorf("handled %x, want %x", s.udp[0].Data, want)
		}
	})
}

// fill does what a network card does.
func fill(b []byte, at int) {
	sum := ^testnet.TransportSum(guest4.Addr(), guest4.Addr(), unix.IPPROTO_ICMP, b) // without a pseudo header
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
}
