package steer

import (
	"encoding/binary"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// cut makes fragments of a frame, of so many bytes each.
func cut(frame []byte, size int) [][]byte {
	p, err := testnet.Parse(frame)
	if err != nil {
		panic(err)
	}
	head := header.IPv4MinimumSize + len(p.Options)
	if p.Src.Is6() {
		head = header.IPv6MinimumSize + header.IPv6FragmentHeaderSize
	}
	p.ID = 4711
	return p.Fragments(head + size)
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
