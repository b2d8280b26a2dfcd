package portfwd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/sockio"
)

// B33: replies in a row to two clients in turn, of one size and of others: each
// client gets its own, in order, and no two of them as one.
func TestB33_RepliesInARow(t *testing.T) {
	w := newWorld(t, setting{})
	eachFamily(t, func(t *testing.T, loop netip.Addr) {
		server, received := w.serveUDP(loop, 54, false)
		b := make([]byte, 1<<16)
		to := address(w.publish(UDP, loop, 54))
		var clients []*net.UDPConn
		var seen []net.Addr
		for range 2 {
			c := udpClient(t, netip.AddrPort{}, to)
			c.Write([]byte("hello"))
			clients, seen = append(clients, c), append(seen, net.UDPAddrFromAddrPort(receive(t, received).from))
			// The first one has the guest resolve the gateway, where others overtake.
			if _, err := server.WriteTo([]byte("hello"), seen[len(seen)-1]); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(b); err != nil {
				t.Fatal(err)
			}
		}
		var want [2][]string
		for i := range 100 {
			data := fmt.Sprintf("%03d%0*d", i, []int{997, 997, 997, 997, 998, 996, 1700}[i%7], 0)
			if i%10 == 9 {
				data = ""
			}
			to := i / 9 % 2
			want[to] = append(want[to], data)
			if _, err := server.WriteTo([]byte(data), seen[to]); err != nil {
				t.Fatal(err)
			}
		}
		for k, c := range clients {
			for i, data := range want[k] {
				if n, err := c.Read(b); err != nil || string(b[:n]) != data {
					t.Fatalf("client %d, reply %d: %d bytes (%.3s), %v, want %d (%.3s)", k, i, n, b[:n], err, len(data), data)
				}
			}
		}
	})
}

// What the guest sends to a client that never asked is no reply, and goes the
// way that every datagram of the guest goes.
func TestRepliesOnlyToWhomAsked(t *testing.T) {
	w := newWorld(t, setting{})
	server, received := w.serveUDP(loop4, 53, true)
	published := address(w.publish(UDP, loop4, 53))
	asks(t, udpClient(t, netip.AddrPort{}, published), "hello")
	receive(t, received)
	other := udpClient(t, netip.AddrPortFrom(loop4, 0), netip.AddrPort{})
	at := other.LocalAddr().(*net.UDPAddr).AddrPort()
	if _, err := server.WriteTo([]byte("unasked"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.Plan.Gateway, at.Port()))); err != nil {
		t.Fatal(err)
	}
	if _, from, err := other.ReadFromUDPAddrPort(make([]byte, 10)); err != nil || from == published {
		t.Errorf("an unasked datagram came from %v, %v, want a port of its own", from, err)
	}
}

// Control messages that nobody understands, or that lie about their length,
// are left alone.
func TestReplyFrom(t *testing.T) {
	info4 := func(spec, addr byte) []byte {
		b := sockio.AppendControl(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, unix.SizeofInet4Pktinfo))
		data := b[unix.CmsgLen(0):]
		data[0] = 7 // the interface
		copy(data[4:], []byte{127, 0, 0, spec})
		copy(data[8:], []byte{127, 0, 0, addr})
		return b
	}

	got := replyFrom(nil, info4(5, 5))
	if data := got[unix.CmsgLen(0):]; !bytes.Equal(data, []byte{0, 0, 0, 0, 127, 0, 0, 5, 0, 0, 0, 0}) &&
		!bytes.Equal(data, []byte{0, 0, 0, 0, 127, 0, 0, 5, 127, 0, 0, 5}) && len(got) != unix.CmsgSpace(unix.SizeofInet4Pktinfo) {
		t.Errorf("packet info for the reply: % x", got)
	}
	other := sockio.AppendControl(nil, unix.IPPROTO_IP, unix.IP_TTL, make([]byte, 4))
	if after := replyFrom(nil, append(bytes.Clone(other), info4(5, 5)...)); !bytes.Equal(after, got) {
		t.Errorf("behind another message: % x, want % x", after, got)
	}
	if none := replyFrom(nil, other); len(none) != 0 {
		t.Errorf("of a message that is none: % x", none)
	}
	for size := range 40 { // lengths that are wrong
		b := info4(5, 5)
		binary.NativeEndian.PutUint64(b, uint64(size))
		replyFrom(nil, b)
		for cut := range len(b) {
			replyFrom(nil, b[:cut])
		}
	}
}
