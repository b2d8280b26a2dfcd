package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is what one system call sends: one datagram, or many that the kernel
// is left to cut (udp(7), UDP_SEGMENT).
type message struct {
	data    []byte
	segment int // 0: one datagram
}

// messages are datagrams in a row of all the kinds that may be joined on their
// way, and of those that may not. They fit a socket's buffer.
func messages(round uint64) (all []message) {
	add := func(n, size, segment int) {
		for range n {
			all = append(all, message{random(round<<8+uint64(len(all)), size), segment})
		}
	}
	add(8, 1000, 0) // of one size
	add(1, 1001, 0)
	add(2, 1000, 0)
	add(1, 999, 0)
	add(1, 0, 0)
	add(2, 1, 0)
	add(2, 4800, 1200) // cut evenly
	add(1, 4807, 1200)
	add(2, 1200, 0)
	add(1, 1, 0)
	add(1, 5000, 1452)
	add(1, 10, 1)
	add(5, 1900, 0) // of one size, beyond an Ethernet's MTU
	add(1, 4000, 0)
	return all
}

// datagrams are those that a receiver must see.
func datagrams(all []message) (want [][]byte) {
	for _, m := range all {
		if m.segment == 0 {
			want = append(want, m.data)
			continue
		}
		for b := m.data; len(b) > 0; {
			n := min(m.segment, len(b))
			want = append(want, b[:n])
			b = b[n:]
		}
	}
	return want
}

// sendAll sends messages, to the peer if the socket is connected.
func sendAll(t testing.TB, c *net.UDPConn, all []message, to netip.AddrPort) {
	t.Helper()
	for _, m := range all {
		var oob []byte
		if m.segment > 0 {
			oob = make([]byte, unix.CmsgSpace(2))
			h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
			h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
			h.SetLen(unix.CmsgLen(2))
			binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(m.segment))
		}
		if _, _, err := c.WriteMsgUDPAddrPort(m.data, oob, to); err != nil {
			t.Fatalf("send %d bytes in segments of %d: %v", len(m.data), m.segment, err)
		}
	}
}

// joins makes a socket take datagrams joined (udp(7), UDP_GRO).
func joins(t testing.TB, c *net.UDPConn) {
	t.Helper()
	var sockErr error
	if err := must(c.SyscallConn())(t).Control(func(fd uintptr) {
		sockErr = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1)
	}); err != nil || sockErr != nil {
		t.Fatalf("set UDP_GRO: %v, %v", err, sockErr)
	}
}

// wantDatagrams receives exactly these, whether or not they come joined, and
// gives the last one's sender.
func wantDatagrams(t testing.TB, what string, c *net.UDPConn, want [][]byte) (from netip.AddrPort) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 1<<16), make([]byte, 128)
	for i := 0; i < len(want); {
		n, oobn, _, sender, err := c.ReadMsgUDPAddrPort(b, oob)
		if err != nil {
			t.Fatalf("%s: %d of %d datagrams, then %v", what, i, len(want), err)
		}
		from = sender
		segment := n
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if m.Header.Level == unix.SOL_UDP && m.Header.Type == unix.UDP_GRO {
				segment = int(binary.NativeEndian.Uint32(m.Data))
			}
		}
		for rest := b[:n]; i < len(want); {
			size := min(segment, len(rest))
			if !bytes.Equal(rest[:size], want[i]) {
				t.Fatalf("%s: datagram %d has %d bytes, want %d, or other ones", what, i, size, len(want[i]))
			}
			i++
			if rest = rest[size:]; len(rest) == 0 {
				break
			}
		}
	}
	return from
}

// inOrder leaves out what several queues may bring out of order: the kernel deals
// fragments out by their addresses and whole datagrams by their ports too, so that
// one kind may overtake the other.
func (w *world) inOrder(t testing.TB, all []message) []message {
	t.Helper()
	link := w.link(t)
	if link.Queues <= 1 {
		return all
	}
	return slices.DeleteFunc(all, func(m message) bool { return m.segment == 0 && len(m.data)+48 > link.Attrs().MTU })
}

// TestB24_RunsKeepTheirDatagrams: datagrams in a row may travel joined, but every
// receiver sees those that were sent, in order: one that takes them joined and
// one that does not, out and in, whether or not they need fragments.
func TestB24_RunsKeepTheirDatagrams(t *testing.T) {
	eachCell(t, func(t *testing.T, w *world, f family) {
		for _, joined := range []bool{false, true} {
			s := must(env.Net.Net.ListenPacket("udp"+f.v, net.JoinHostPort(f.server, "0")))(t).(*net.UDPConn)
			defer s.Close()
			c := w.listenPacket(t, f).(*net.UDPConn)
			if joined {
				joins(t, c)
				joins(t, s)
			}
			to := s.LocalAddr().(*net.UDPAddr).AddrPort()
			// Neighbours are resolved by the first ones.
			sendAll(t, c, []message{{data: []byte("first")}}, to)
			mapping := wantDatagrams(t, "first", s, [][]byte{[]byte("first")})
			sendAll(t, s, []message{{data: []byte("first")}}, mapping)
			wantDatagrams(t, "first", c, [][]byte{[]byte("first")})
			for round := range uint64(3) {
				all := w.inOrder(t, messages(round))
				sendAll(t, c, all, to)
				wantDatagrams(t, fmt.Sprintf("out, joined %v, round %d", joined, round), s, datagrams(all))
				sendAll(t, s, all, mapping)
				if from := wantDatagrams(t, fmt.Sprintf("in, joined %v, round %d", joined, round), c, datagrams(all)); from.Port() != to.Port() {
					t.Errorf("from %v, want %v", from, to)
				}
			}
		}
	})
}

// TestB24_PublishedRunsKeepTheirDatagrams: the same by a published port.
func TestB24_PublishedRunsKeepTheirDatagrams(t *testing.T) {
	for _, c := range []cell{
		{"MTU1500", []string{"--mtu=1500"}},
		{"MTU1500/noOffload", []string{"--mtu=1500", "--no-offload"}},
		{"MTU65520", []string{"--mtu=65520"}},
		{"MTU65520/noOffload", []string{"--mtu=65520", "--no-offload"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := published(t, "18024", "/udp", c.flags...)
			eachFamily(t, func(t *testing.T, f family) {
				for _, joined := range []bool{false, true} {
					s := onceFree(t, func() (net.PacketConn, error) { return w.ListenPacket("udp"+f.v, f.anyHost()+":"+guestPort) }).(*net.UDPConn)
					defer s.Close()
					for range 2 { // whose replies must not mix
						c := client(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.host(), "18024")).(*net.UDPConn)
						if joined {
							joins(t, c)
							joins(t, s)
						}
						sendAll(t, c, []message{{data: []byte("first")}}, netip.AddrPort{})
						from := wantDatagrams(t, "first", s, [][]byte{[]byte("first")})
						sendAll(t, s, []message{{data: []byte("first")}}, from)
						wantDatagrams(t, "first", c, [][]byte{[]byte("first")})
						for round := range uint64(2) {
							all := messages(round)
							sendAll(t, c, all, netip.AddrPort{})
							wantDatagrams(t, fmt.Sprintf("in, joined %v, round %d", joined, round), s, datagrams(all))
							sendAll(t, s, all, from)
							wantDatagrams(t, fmt.Sprintf("out, joined %v, round %d", joined, round), c, datagrams(all))
						}
					}
					s.Close()
				}
			})
		})
	}
}
