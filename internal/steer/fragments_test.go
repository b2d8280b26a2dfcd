package steer

import (
	"encoding/binary"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// cut makes fragments of a frame without options, of so many bytes each.
func cut(frame []byte, size int) (parts [][]byte) {
	ip := frame[header.EthernetMinimumSize:]
	head := 20
	if ip[0]>>4 == 6 {
		head = 40
	}
	body := ip[head:]
	for at := 0; at < len(body); at += size {
		end := min(at+size, len(body))
		part := append([]byte(nil), frame[:header.EthernetMinimumSize+head]...)
		if head == 20 {
			field := uint16(at / 8)
			if end < len(body) {
				field |= 0x2000
			}
			h := part[header.EthernetMinimumSize:]
			binary.BigEndian.PutUint16(h[2:], uint16(head+end-at))
			binary.BigEndian.PutUint16(h[4:], 4711)
			binary.BigEndian.PutUint16(h[6:], field)
		} else {
			h := part[header.EthernetMinimumSize:]
			binary.BigEndian.PutUint16(h[4:], uint16(8+end-at))
			part = append(part, h[6], 0, byte(at>>8), byte(at), 0, 0, 0x47, 0x11)
			part[header.EthernetMinimumSize+6] = header.IPv6FragmentHeader
			if end < len(body) {
				part[header.EthernetMinimumSize+head+3] |= 1
			}
		}
		parts = append(parts, append(part, body[at:end]...))
	}
	return parts
}

// A datagram in parts has the owner that it would have in one piece, whichever
// worker the parts come by.
func TestFragmentsFollowTheFirst(t *testing.T) {
	for _, proto := range []uint8{stack.ProtoTCP, stack.ProtoUDP} {
		g := testGroup(t, 4, false)
		for _, p := range pairs(g, proto) {
			frame := testnet.UDP(p[0], p[1], 64, make([]byte, 100))
			if proto == stack.ProtoTCP {
				frame = testnet.TCP(p[0], p[1], 0x18, 2, 2, make([]byte, 100))
			}
			want := g.ownerOf(frame)
			parts := cut(frame, 24)
			if len(parts) < 4 || want == 0 {
				t.Fatalf("%d parts, worker %d", len(parts), want)
			}
			for i, part := range parts {
				if got := g.ownerOf(part); got != want {
					t.Errorf("protocol %d, %v: worker %d for part %d, %d for the whole", proto, p[0], got, i, want)
				}
			}
			// The first part of another one, with the same number, in its place.
			if got := testGroup(t, 4, false).ownerOf(parts[1]); got != 0 {
				t.Errorf("worker %d for a part without its first", got)
			}
		}
	}
}

// Any number of datagrams in parts takes the same memory, and those of lately are
// known.
func TestFragmentsAreBounded(t *testing.T) {
	g := testGroup(t, 4, false)
	p := pairs(g, stack.ProtoUDP)[0]
	parts := cut(testnet.UDP(p[0], p[1], 64, make([]byte, 100)), 24)
	want := g.ownerOf(parts[0])
	for id := range uint16(10 * fragmentSlots) {
		for i, part := range parts {
			binary.BigEndian.PutUint16(part[header.EthernetMinimumSize+4:], id)
			if got := g.ownerOf(part); got != want {
				t.Fatalf("datagram %d: worker %d for part %d, want %d", id, got, i, want)
			}
		}
	}
}
