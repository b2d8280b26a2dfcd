package forwarder

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// families are the two ways to the host's loopback.
var families = []struct {
	name           string
	host           string
	guest, gateway netip.Addr
	icmp           uint8
	unreachable    [2]byte // port unreachable
}{
	{"IPv4", "127.0.0.1:0", netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("10.0.2.2"), stack.ProtoICMP, [2]byte{3, 3}},
	{"IPv6", "[::1]:0", netip.MustParseAddr("fd00::64"), netip.MustParseAddr("fd00::2"), stack.ProtoICMPv6, [2]byte{1, 4}},
}

func readDatagram(t *testing.T, c *net.UDPConn) ([]byte, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 1<<16)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n], from
}

// TestB21_EndpointIndependentMapping: one guest port is one host port for all
// peers (RFC 4787 REQ-1), and each reply comes from the peer that sent it (B20).
func TestB21_EndpointIndependentMapping(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, setup{})
			one, addr1 := testnet.ListenUDP(t, f.host)
			two, addr2 := testnet.ListenUDP(t, f.host)
			stranger, addr3 := testnet.ListenUDP(t, f.host)
			src := at(f.guest, 4000)
			r.send(
				testnet.UDP(src, at(f.gateway, addr1.Port()), 64, []byte("one")),
				testnet.UDP(src, at(f.gateway, addr2.Port()), 64, []byte("two")),
			)
			got1, seen1 := readDatagram(t, one)
			got2, seen2 := readDatagram(t, two)
			if string(got1) != "one" || string(got2) != "two" {
				t.Errorf("arrived: %q and %q", got1, got2)
			}
			if seen1 != seen2 {
				t.Errorf("one guest port was seen as %v and as %v", seen1, seen2)
			}
			r.wantCounts(counts{Mappings: 1})
			// Filtering is endpoint-independent: who knows the port may write.
			for _, peer := range []struct {
				from *net.UDPConn
				port uint16
			}{{two, addr2.Port()}, {one, addr1.Port()}, {stranger, addr3.Port()}} {
				if _, err := peer.from.WriteToUDPAddrPort([]byte("reply"), seen1); err != nil {
					t.Fatal(err)
				}
				p := r.receive(stack.ProtoUDP)
				if p.From() != at(f.gateway, peer.port) || p.Dst != f.guest || p.DstPort() != 4000 || string(p.Payload[8:]) != "reply" {
					t.Errorf("reply %q from %v to %v port %d, want it from port %d of the gateway",
						p.Payload[8:], p.From(), p.Dst, p.DstPort(), peer.port)
				}
			}
			// Another guest port, and another guest, are seen as another port.
			for _, other := range []netip.AddrPort{at(f.guest, 4001), at(f.guest.Next(), 4000)} {
				r.send(testnet.UDP(other, at(f.gateway, addr1.Port()), 64, nil))
				if _, seen := readDatagram(t, one); seen == seen1 {
					t.Errorf("%v is seen as %v, which is %v", other, seen, src)
				}
			}
		})
	}
}

// A guest that reaches the gateway by its link-local address is answered from
// there: a connected socket takes nothing else.
func TestB20_LinkLocalGatewayAnswers(t *testing.T) {
	r := newRig(t, setup{})
	host, addr := testnet.ListenUDP(t, "[::1]:0")
	src, dst := at(netip.MustParseAddr("fe80::64"), 4000), at(gatewayLL, addr.Port())
	r.send(testnet.UDP(src, dst, 64, []byte("query")))
	_, seen := readDatagram(t, host)
	if _, err := host.WriteToUDPAddrPort([]byte("reply"), seen); err != nil {
		t.Fatal(err)
	}
	if p := r.receive(stack.ProtoUDP); p.From() != dst {
		t.Errorf("reply from %v, want %v", p.From(), dst)
	}
}

// TestB22_ClosedPort: the guest's kernel is told in a way that finds the socket.
func TestB22_ClosedPort(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, setup{})
			c, addr := testnet.ListenUDP(t, f.host)
			c.Close()
			src, dst := at(f.guest, 4000), at(f.gateway, addr.Port())
			for range 3 { // each datagram, not only the first
				r.send(datagram(src, dst))
				p := r.receive(f.icmp)
				quoted, ok := p.Quoted()
				if [2]byte(p.Payload) != f.unreachable || p.Src != f.gateway || p.Dst != f.guest {
					t.Errorf("type %d code %d from %v to %v", p.Payload[0], p.Payload[1], p.Src, p.Dst)
				}
				if !ok || quoted.Proto != stack.ProtoUDP || quoted.From() != src || quoted.Dst != dst.Addr() || quoted.DstPort() != dst.Port() {
					t.Errorf("quotes %+v, want %v to %v", quoted, src, dst)
				}
			}
			// The mapping works on.
			host, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
			if err != nil {
				t.Fatal(err)
			}
			defer host.Close()
			r.send(datagram(src, dst))
			if got, _ := readDatagram(t, host); string(got) != "hello" {
				t.Errorf("after the errors: %q", got)
			}
		})
	}
}

// One peer's closed port does not cost another peer its datagram, though both
// share the socket on which the error is pending.
func TestB22_ErrorsDoNotCostDatagrams(t *testing.T) {
	r := newRig(t, setup{})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	c, dead := testnet.ListenUDP(t, "127.0.0.1:0")
	c.Close()
	src := at(guest4, 4000)
	for i := range byte(50) {
		for range 2 {
			if err := r.Port.Write(
				datagram(src, at(gateway4, dead.Port())),
				testnet.UDP(src, at(gateway4, addr.Port()), 64, []byte{i}),
			); err != nil {
				t.Fatal(err)
			}
		}
		r.turn()
	}
	for range 20 {
		r.turn()
	}
	for i := range byte(50) {
		for range 2 {
			if got, _ := readDatagram(t, host); !bytes.Equal(got, []byte{i}) {
				t.Fatalf("datagram %d is %v", i, got)
			}
		}
	}
}

// TestB26_TTL: a TTL that is meant leaves by the host's socket, less our hop;
// others are the host's business.
func TestB26_TTL(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, setup{})
			host, addr := testnet.ListenUDP(t, f.host)
			receiveTTL(t, host, f.guest.Is6())
			for _, tt := range []struct{ sent, want int }{{0, 64}, {1, 64}, {2, 1}, {3, 2}, {30, 29}, {63, 62}, {64, 64}, {128, 64}, {255, 64}, {5, 4}} {
				r.send(testnet.UDP(at(f.guest, 4000), at(f.gateway, addr.Port()), uint8(tt.sent), []byte("x")))
				if got := readTTL(t, host); got != tt.want {
					t.Errorf("sent with TTL %d, arrived with %d, want %d", tt.sent, got, tt.want)
				}
			}
			// TTL 1 would be ours to answer, were the gateway not the destination.
			far := at(netip.MustParseAddr("192.0.2.1"), 33434)
			if f.guest.Is6() {
				far = at(netip.MustParseAddr("2001:db8::1"), 33434)
			}
			r.send(testnet.UDP(at(f.guest, 4001), far, 1, []byte("x")))
			p := r.receive(f.icmp)
			exceeded := byte(11)
			if f.guest.Is6() {
				exceeded = 3
			}
			if p.Payload[0] != exceeded || p.Src != f.gateway {
				t.Errorf("TTL 1: type %d from %v", p.Payload[0], p.Src)
			}
		})
	}
}

func receiveTTL(t *testing.T, c *net.UDPConn, v6 bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if v6 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTTL, 1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func readTTL(t *testing.T, c *net.UDPConn) int {
	t.Helper()
	b, oob := make([]byte, 2048), make([]byte, 128)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, n, _, _, err := c.ReadMsgUDPAddrPort(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	ttl, ok := receivedTTL(oob[:n])
	if !ok {
		t.Fatal("no TTL among the control messages")
	}
	return int(ttl)
}

// TestB24_Burst: 200 datagrams in one go, in and out, none lost and in order.
func TestB24_Burst(t *testing.T) {
	const burst = 200
	for _, offload := range []bool{false, true} {
		r := newRigOn(t, setup{}, offload)
		host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
		payload := bytes.Repeat([]byte("x"), 1400)
		for i := range byte(burst) {
			payload[0] = i
			if err := r.Port.Write(testnet.UDP(at(guest4, 4000), at(gateway4, addr.Port()), 64, payload)); err != nil {
				t.Fatal(err)
			}
		}
		for range burst {
			r.turn()
		}
		var seen netip.AddrPort
		for i := range byte(burst) {
			var got []byte
			if got, seen = readDatagram(t, host); len(got) != len(payload) || got[0] != i {
				t.Fatalf("offload %v: datagram %d has %d bytes and number %d", offload, i, len(got), got[0])
			}
		}
		for i := range byte(burst) {
			payload[0] = i
			if _, err := host.WriteToUDPAddrPort(payload, seen); err != nil {
				t.Fatal(err)
			}
		}
		for i := range byte(burst) {
			if p := r.receive(stack.ProtoUDP); len(p.Payload) != 8+len(payload) || p.Payload[8] != i {
				t.Fatalf("offload %v: reply %d has %d bytes and number %d", offload, i, len(p.Payload)-8, p.Payload[8])
			}
		}
	}
}

// A super-datagram of the guest's kernel (USO) arrives as the datagrams that
// the guest's socket sent.
func TestSuperDatagramIsSplit(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := newRigOn(t, setup{}, true)
			host, addr := testnet.ListenUDP(t, f.host)
			for _, tt := range []struct {
				size, segment int
			}{{3000, 1000}, {3500, 1000}, {999, 1000}, {50000, 1200}, {60000, 1472}, {2, 1}} {
				payload := make([]byte, tt.size)
				for i := range payload {
					payload[i] = byte(i / tt.segment)
				}
				frame := testnet.UDP(at(f.guest, 4000), at(f.gateway, addr.Port()), 64, payload)
				if err := r.Port.WriteSegments(uint16(tt.segment), frame); err != nil {
					t.Fatal(err)
				}
				r.turn()
				for off := 0; off < tt.size; off += tt.segment {
					want := payload[off:min(off+tt.segment, tt.size)]
					if got, _ := readDatagram(t, host); !bytes.Equal(got, want) {
						t.Fatalf("%d bytes in segments of %d: at %d came %d bytes", tt.size, tt.segment, off, len(got))
					}
				}
			}
		})
	}
}

// Datagrams larger than the frames' heads are not mixed up by the ones behind
// them in the batch.
func TestLargeAndSmallDatagramsInOneBatch(t *testing.T) {
	r := newRig(t, setup{})
	host, addr := testnet.ListenUDP(t, "127.0.0.1:0")
	host.SetReadBuffer(8 << 20)
	sizes := []int{1, 60000, 2, 2020, 2021, 3, 65507, 2100, 0, 40000, 4}
	for round := range 6 {
		for i, size := range sizes {
			payload := bytes.Repeat([]byte{byte(round*len(sizes) + i)}, size)
			if err := r.Port.Write(testnet.UDP(at(guest4, 4000), at(gateway4, addr.Port()), 64, payload)); err != nil {
				t.Fatal(err)
			}
		}
		for range len(sizes) {
			r.turn()
		}
		for i, size := range sizes {
			want := bytes.Repeat([]byte{byte(round*len(sizes) + i)}, size)
			if got, _ := readDatagram(t, host); !bytes.Equal(got, want) {
				t.Fatalf("round %d: datagram %d has %d bytes, want %d", round, i, len(got), size)
			}
		}
	}
}

// What leaves as one message arrives as the datagrams that it was made of, in
// order, whatever stands next to what: shorter and longer ones, empty ones,
// other peers, other TTLs.
func TestRunsKeepTheirBounds(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			r := newRigOn(t, setup{}, true)
			var hosts [2]*net.UDPConn
			var ports [2]uint16
			for i := range hosts {
				var addr netip.AddrPort
				hosts[i], addr = testnet.ListenUDP(t, f.host)
				hosts[i].SetReadBuffer(8 << 20)
				ports[i] = addr.Port()
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			var want [2][][]byte
			const datagrams = 2000
			size := 0
			for i := range datagrams {
				if rnd.IntN(5) == 0 {
					size = []int{0, 1, 50, 1000, 1400, 1900}[rnd.IntN(6)]
				}
				to, ttl := 0, byte(64)
				if rnd.IntN(10) == 0 {
					to = 1
				}
				if rnd.IntN(20) == 0 {
					ttl = 20
				}
				payload := bytes.Repeat([]byte{byte(i)}, size)
				want[to] = append(want[to], payload)
				if err := r.Port.Write(testnet.UDP(at(f.guest, 4000), at(f.gateway, ports[to]), ttl, payload)); err != nil {
					t.Fatal(err)
				}
				if i%40 != 39 && i != datagrams-1 {
					continue
				}
				for range 40 {
					r.turn()
				}
				for to, host := range hosts {
					for i, want := range want[to] {
						if got, _ := readDatagram(t, host); !bytes.Equal(got, want) {
							t.Fatalf("peer %d, datagram %d: %d bytes, want %d", to, i, len(got), len(want))
						}
					}
					want[to] = nil
				}
			}
		})
	}
}
