package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// listenPacket is a socket in the guest that is closed with the test.
func (w *world) listenPacket(t testing.TB, f family) net.PacketConn {
	t.Helper()
	any := "0.0.0.0:0"
	if f.af == unix.AF_INET6 {
		any = "[::]:0"
	}
	c := must(w.ListenPacket("udp"+f.v, any))(t)
	t.Cleanup(func() { c.Close() })
	if err := c.(*net.UDPConn).SetReadBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	return c
}

// receive waits for one datagram.
func receive(c net.PacketConn, d time.Duration) ([]byte, net.Addr, error) {
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		return nil, nil, err
	}
	b := make([]byte, 1<<16)
	n, from, err := c.ReadFrom(b)
	return b[:n], from, err
}

func udpAddr(host string, a net.Addr) *net.UDPAddr {
	return &net.UDPAddr{IP: net.ParseIP(host), Port: a.(*net.UDPAddr).Port}
}

// TestB20_DatagramsComeBackInOrder: 100 of them, each from the address that
// was asked.
func TestB20_DatagramsComeBackInOrder(t *testing.T) {
	eachCell(t, func(t *testing.T, w *world, f family) {
		s := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), echoPacket)
		c := w.listenPacket(t, f)
		to := udpAddr(f.server, s.LocalAddr())
		// While a kernel resolves a neighbour, a later datagram may overtake
		// those that wait for it. That is over after a first exchange.
		if _, err := c.WriteTo([]byte("first"), to); err != nil {
			t.Fatal(err)
		}
		if _, _, err := receive(c, deadline); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if _, err := c.WriteTo(fmt.Append(nil, "datagram ", i), to); err != nil {
				t.Fatal(err)
			}
		}
		var want, got []string
		for i := range 100 {
			want = append(want, fmt.Sprintf("datagram %d from %v", i, to))
			b, from, err := receive(c, deadline)
			if err != nil {
				break
			}
			got = append(got, fmt.Sprintf("%s from %v", b, from))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("other datagrams came back:\n%s", diff)
		}
	})
}

// TestB20_ReplyShowsWhoAnswered: another address and port of the server's
// machine answers, and the guest sees that.
func TestB20_ReplyShowsWhoAnswered(t *testing.T) {
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		seen := make(chan net.Addr, 1)
		s := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), func(_ []byte, from net.Addr) []byte {
			seen <- from
			return nil
		})
		other := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.other, "0"), echoPacket)
		c := w.listenPacket(t, f)
		if _, err := c.WriteTo([]byte("question"), udpAddr(f.server, s.LocalAddr())); err != nil {
			t.Fatal(err)
		}
		if _, err := other.WriteTo([]byte("answer"), <-seen); err != nil {
			t.Fatal(err)
		}
		got, from, err := receive(c, deadline)
		if err != nil || string(got) != "answer" || from.String() != other.LocalAddr().String() {
			t.Errorf("received %q from %v, %v, want the answer from %v", got, from, err, other.LocalAddr())
		}
	})
}

// TestB21_MappingIsEndpointIndependent: one socket of the guest has one port of
// the host, whoever it talks to (RFC 4787, REQ-1).
func TestB21_MappingIsEndpointIndependent(t *testing.T) {
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		c := w.listenPacket(t, f)
		// Like STUN: the answer is the address that the server saw.
		stun := func(_ []byte, from net.Addr) []byte { return []byte(from.String()) }
		seen := map[string]bool{}
		for _, host := range []string{f.server, f.server, f.other, f.other} {
			s := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(host, "0"), stun)
			if _, err := c.WriteTo([]byte("who am I?"), udpAddr(host, s.LocalAddr())); err != nil {
				t.Fatal(err)
			}
			got, _, err := receive(c, deadline)
			if err != nil {
				t.Fatal(err)
			}
			seen[string(got)] = true
		}
		if len(seen) != 1 {
			t.Errorf("four servers saw the mappings %v, want one", seen)
		}
	})
}

// TestB22_ClosedPortRefuses: the host's ICMP reaches the guest's socket.
func TestB22_ClosedPortRefuses(t *testing.T) {
	w := serve(t)
	eachFamily(t, func(t *testing.T, f family) {
		c := w.dial(t, "udp"+f.v, net.JoinHostPort(f.server, "4"))
		if _, err := c.Write([]byte("anyone?")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !isErrno(err, unix.ECONNREFUSED) {
			t.Errorf("read gave %v, want ECONNREFUSED", err)
		}
	})
}

// TestB23_LargeDatagrams pass both ways whatever the MTU, up to the largest
// that IPv4 carries.
func TestB23_LargeDatagrams(t *testing.T) {
	eachCell(t, func(t *testing.T, w *world, f family) {
		s := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), echoPacket)
		sizes := []int{0, 1, 1472, 1473, 9000, 60_000}
		if env.Product {
			sizes = append(sizes, 65_507)
		}
		for _, size := range sizes {
			c := w.listenPacket(t, f)
			data := random(uint64(size), size)
			if _, err := c.WriteTo(data, udpAddr(f.server, s.LocalAddr())); err != nil {
				t.Fatal(err)
			}
			got, _, err := receive(c, deadline)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes out, %d back, equal: %v, %v", size, len(got), bytes.Equal(got, data), err)
			}
		}
	})
}

// TestB24_BurstsLoseNothing: 200 datagrams in one go, out and in.
func TestB24_BurstsLoseNothing(t *testing.T) {
	const burst = 200
	alone(t, func(t *testing.T, w *world, f family) {
		arrived := make(chan net.Addr, 2*burst)
		s := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), func(_ []byte, from net.Addr) []byte {
			arrived <- from
			return nil
		})
		c := w.listenPacket(t, f)
		b := make([]byte, 100)
		for i := range burst {
			binary.BigEndian.PutUint32(b, uint32(i))
			if _, err := c.WriteTo(b, udpAddr(f.server, s.LocalAddr())); err != nil {
				t.Fatal(err)
			}
		}
		var mapping net.Addr
		late := time.After(deadline)
		for i := range burst {
			select {
			case mapping = <-arrived:
			case <-late:
				t.Fatalf("out: %d of %d datagrams arrived", i, burst)
			}
		}
		for i := range burst {
			binary.BigEndian.PutUint32(b, uint32(i))
			if _, err := s.WriteTo(b, mapping); err != nil {
				t.Fatal(err)
			}
		}
		for i := range burst {
			if _, _, err := receive(c, deadline); err != nil {
				t.Fatalf("in: %d of %d datagrams arrived: %v", i, burst, err)
			}
		}
	})
}

// TestB20_RunsBeyondTheMTU: datagrams of one size one after the other, which
// would leave as one message, over a link that has to fragment each of them.
func TestB20_RunsBeyondTheMTU(t *testing.T) {
	const datagrams, size = 30, 1900 // small enough to be joined, see stack's headSize
	eachCell(t, func(t *testing.T, w *world, f family) {
		arrived := make(chan []byte, datagrams)
		s := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), func(b []byte, _ net.Addr) []byte {
			arrived <- bytes.Clone(b)
			return nil
		})
		c := w.listenPacket(t, f)
		// Neighbours are resolved by a first one, see above.
		if _, err := c.WriteTo([]byte("first"), udpAddr(f.server, s.LocalAddr())); err != nil {
			t.Fatal(err)
		}
		late := time.After(deadline)
		select {
		case <-arrived:
		case <-late:
			t.Fatal("the first datagram did not arrive")
		}
		for i := range datagrams {
			if _, err := c.WriteTo(bytes.Repeat([]byte{byte(i)}, size), udpAddr(f.server, s.LocalAddr())); err != nil {
				t.Fatal(err)
			}
		}
		for i := range datagrams {
			select {
			case b := <-arrived:
				if !bytes.Equal(b, bytes.Repeat([]byte{byte(i)}, size)) {
					t.Fatalf("datagram %d is %d bytes of %d", i, len(b), b[0])
				}
			case <-late:
				t.Fatalf("%d of %d datagrams arrived", i, datagrams)
			}
		}
	})
}
