package stack_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

func TestB23_FragmentsAreReassembled(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		for i, size := range []int{1500, 60000, 65507} {
			if guest.Addr().Is6() && size > 60000 {
				continue
			}
			data := pattern(size, 5)
			p := testnet.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: stack.ProtoUDP, ID: uint32(100 + i), Payload: testnet.Datagram(guest, remote, data)}
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
		s.feed(testnet.UDP(guest, remote, testnet.TTL, data))
		s.oneDatagram("one large frame", guest, remote, data)
	})
}

func TestB42_FragmentsThatDoNotFit(t *testing.T) {
	families(t, func(t *testing.T, guest, remote netip.AddrPort) {
		s := newSeam(t, seamConfig{})
		base := testnet.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: stack.ProtoUDP}
		payload := testnet.Datagram(guest, remote, make([]byte, 3000))
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
		s.feed(testnet.UDP(guest, remote, testnet.TTL, []byte("still here")))
		s.oneDatagram("after the flood", guest, remote, []byte("still here"))
	})
}

func TestIPv6ExtensionHeaders(t *testing.T) {
	s := newSeam(t, seamConfig{})
	pad := []byte{0, 0, 1, 4, 0, 0, 0, 0}
	for name, typ := range map[string]uint8{"hop-by-hop options": 0, "destination options": 60} {
		for count := 1; count <= 3; count++ {
			p := testnet.Packet{
				Src: guest6.Addr(), Dst: remote6.Addr(), Proto: stack.ProtoUDP, ExtensionType: typ,
				Payload: testnet.Datagram(guest6, remote6, []byte("question")),
			}
			for i := range count {
				ext := bytes.Clone(pad)
				ext[0] = 60
				if i == count-1 {
					ext[0] = stack.ProtoUDP
				}
				p.Extensions = append(p.Extensions, ext...)
			}
			s.feed(p.Frame())
			s.oneDatagram(fmt.Sprintf("%d %s", count, name), guest6, remote6, []byte("question"))
		}
	}
}

// What the manual says of extension headers.
func TestIPv6ExtensionHeadersByKind(t *testing.T) {
	const hop, routing, esp, ah, destination, mobility = 0, 43, 50, 51, 60, 135
	pad := []byte{0, 0, 1, 4, 0, 0, 0, 0}
	s := newSeam(t, seamConfig{})
	for name, c := range map[string]struct {
		typ    uint8
		header []byte
		count  int
		passes bool
	}{
		"hop-by-hop options":             {hop, pad, 1, true},
		"destination options":            {destination, pad, 1, true},
		"eight headers":                  {destination, pad, 8, true},
		"nine headers":                   {destination, pad, 9, false},
		"routing, at its end":            {routing, []byte{0, 0, 4, 0, 0, 0, 0, 0}, 1, true},
		"routing, with segments left":    {routing, []byte{0, 0, 4, 1, 0, 0, 0, 0}, 1, false},
		"authentication":                 {ah, pad, 1, false},
		"encapsulating security payload": {esp, pad, 1, false},
		"mobility":                       {mobility, pad, 1, false},
	} {
		p := testnet.Packet{
			Src: guest6.Addr(), Dst: remote6.Addr(), Proto: unix.IPPROTO_UDP, ExtensionType: c.typ,
			Payload: testnet.Datagram(guest6, remote6, []byte("question")),
		}
		for range c.count {
			ext := bytes.Clone(c.header)
			ext[0] = c.typ // the last one's is filled in
			p.Extensions = append(p.Extensions, ext...)
		}
		if c.passes {
			s.feed(p.Frame())
			s.oneDatagram(name, guest6, remote6, []byte("question"))
		} else {
			s.silent(name, p.Frame())
		}
	}
}

// FuzzFragments: of parts of a datagram, in whatever order and number, and whatever they
// say of themselves, the handler gets the datagram or nothing. It gets it when the parts
// are all there once, and the next datagram in any case. A part is three bytes: its
// first and its number of units of eight bytes, and, if the lowest bit is set, that it
// says the opposite of whether more follow.
func FuzzFragments(f *testing.F) {
	for _, parts := range []string{
		"", "\x00\xff\x00", "\x00\x08\x00\x08\xff\x00", "\x08\xff\x00\x00\x08\x00",
		"\x00\x01\x00\x01\x01\x00\x02\x01\x00\x03\xff\x00", "\x00\x08\x00\x00\x08\x00\x08\xff\x00",
		"\x00\x09\x00\x08\xff\x00", "\x00\x08\x01\x08\xff\x01", "\x00\xff\x01", "\x00\x08\x00\x05\x01\x00\x08\xff\x00",
	} {
		f.Add(uint16(300), false, []byte(parts))
		f.Add(uint16(2041), true, []byte(parts))
	}
	f.Fuzz(func(t *testing.T, size uint16, v6 bool, parts []byte) {
		const unit, most = 8, 64
		guest, remote := guest4, remote4
		if v6 {
			guest, remote = guest6, remote6
		}
		data := pattern(int(size)%2048, 7)
		base := testnet.Packet{Src: guest.Addr(), Dst: remote.Addr(), Proto: stack.ProtoUDP, ID: 1}
		payload := testnet.Datagram(guest, remote, data)
		s := newSeam(t, seamConfig{})
		covered, lies := make([]int, (len(payload)+unit-1)/unit), false
		for i := 0; i+3 <= len(parts) && i < 3*most; i += 3 {
			first, last := int(parts[i]), int(parts[i])+int(parts[i+1])
			if first >= last || first >= len(covered) {
				continue
			}
			for n := first; n < min(last, len(covered)); n++ {
				covered[n]++
			}
			p := base
			p.Offset = first * unit
			p.Payload = payload[p.Offset:min(last*unit, len(payload))]
			p.More = last < len(covered)
			if parts[i+2]&1 != 0 {
				p.More, lies = !p.More, true
			}
			s.dev.Inject(p.Frame())
		}
		s.run()
		for _, got := range s.udp {
			if got.Src != guest.Addr() || got.Dst != remote.Addr() || !bytes.Equal(got.Data, payload) {
				t.Errorf("handled %x from %v to %v", got.Data, got.Src, got.Dst)
			}
		}
		once := !lies && !slices.ContainsFunc(covered, func(n int) bool { return n != 1 })
		for _, p := range s.sent() { // RFC 8200 section 4.5: of a length that no fragment can have
			if !lies || p.Proto != stack.ProtoICMPv6 || p.Payload[0] != 4 {
				t.Errorf("sent %+v", p)
			}
		}
		if once && len(s.udp) != 1 || len(s.udp) != s.handled() {
			t.Errorf("parts %v of %d: handled %d, %d of them datagrams", covered, len(payload), s.handled(), len(s.udp))
		}
		base.ID, base.Payload = 2, testnet.Datagram(guest, remote, pattern(3000, 8))
		s.feed(base.Fragments(1500)...)
		s.oneDatagram("the next one", guest, remote, pattern(3000, 8))
	})
}
