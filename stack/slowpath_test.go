package stack_test

import (
	"io"
	"net"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// Segments in fragments take gVisor's way, and find their connection.
func TestB17_SegmentsInFragments(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		p := newPeer(t, v6, testnet.DeviceConfig{}, &host{serve: echo})
		p.establish()
		data := pattern(400, 3)
		for range 3 {
			q := testnet.Packet{Src: p.guest.Addr(), Dst: p.remote.Addr(), Proto: stack.ProtoTCP,
				ID: p.seq, Payload: testnet.Segment(p.guest, p.remote, header.TCPFlagAck|header.TCPFlagPsh, p.seq, p.ack, data)}
			for _, f := range q.Fragments(200) {
				p.dev.Inject(f)
			}
			p.seq += uint32(len(data))
			for got := 0; got < len(data); {
				s := p.receive()
				got += len(s.data)
				p.ack += uint32(len(s.data))
				if s.flags&header.TCPFlagRst != 0 {
					t.Fatal("the connection was reset")
				}
			}
		}
		p.reset()
	})
}

// A router behind the guest says that a segment was too big for it: it comes
// again, in smaller ones.
func TestB17_SegmentTooBigForTheGuestsOwnNetwork(t *testing.T) {
	const mtu, tcpHeader = 1280, 20
	bothFamilies(t, func(t *testing.T, v6 bool) {
		p := newPeer(t, v6, testnet.DeviceConfig{}, &host{serve: func(c *net.UnixConn, _ *flow) {
			c.Write(pattern(1400, 4))
			io.Copy(io.Discard, onlyReader{c})
			c.Close()
		}})
		// With the option that says how large segments may be.
		syn := testnet.Segment(p.guest, p.remote, header.TCPFlagSyn, p.seq, 0, []byte{2, 4, 1440 >> 8, 1440 & 0xff})
		syn[12] = 6 << 4
		testnet.FixTransport(p.guest.Addr(), p.remote.Addr(), stack.ProtoTCP, syn)
		p.dev.Inject(testnet.Packet{Src: p.guest.Addr(), Dst: p.remote.Addr(), Proto: stack.ProtoTCP, Payload: syn}.Frame())
		p.seq++
		p.ack = p.until(header.TCPFlagSyn|header.TCPFlagAck).seq + 1
		p.send(header.TCPFlagAck, nil)
		s := p.receive()
		if len(s.data) != 1400 {
			t.Fatalf("a segment of %d bytes, want 1400", len(s.data))
		}
		typ, code, ip := uint8(3), uint8(4), 20
		if v6 {
			typ, code, ip = 2, 0, 40
		}
		about := append([]byte{0, 0, mtu >> 8, mtu & 0xff}, s.Data[14:14+ip+8]...)
		if v6 {
			about = append([]byte{0, 0, mtu >> 8, mtu & 0xff}, s.Data[14:]...)
		}
		p.dev.Inject(testnet.ICMP(p.guest.Addr(), p.remote.Addr(), typ, code, about))
		for got := 0; got < 1400; {
			s := p.receive()
			if s.seq != p.ack {
				t.Fatalf("segment at %d, want %d", s.seq, p.ack)
			}
			if size := ip + tcpHeader + len(s.data); size > mtu {
				t.Fatalf("a packet of %d bytes after an MTU of %d was told", size, mtu)
			}
			got += len(s.data)
			p.ack += uint32(len(s.data))
			p.send(header.TCPFlagAck, nil)
		}
		p.reset()
	})
}
