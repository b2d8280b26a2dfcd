package portfwd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
)

// datagram is one that the guest's server received.
type datagram struct {
	from    netip.AddrPort
	payload string
}

// serveUDP receives in the guest and, with answer, sends everything back.
func (w *world) serveUDP(host netip.Addr, port uint16, answer bool) (*gonet.UDPConn, <-chan datagram) {
	w.T.Helper()
	c, err := w.Guest.DialUDP(port, netip.AddrPort{}, host.Is6())
	if err != nil {
		w.T.Fatal(err)
	}
	received := make(chan datagram, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			select {
			case received <- datagram{from.(*net.UDPAddr).AddrPort(), string(b[:n])}:
			default:
			}
			if answer {
				c.WriteTo(b[:n], from)
			}
		}
	}()
	w.T.Cleanup(func() {
		c.Close()
		<-ended
	})
	return c, received
}

// udpClient opens a UDP socket of the host, connected if to is valid: it then
// takes answers from the address asked alone.
func udpClient(t testing.TB, from, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	var err error
	if to.IsValid() {
		var local *net.UDPAddr
		if from.IsValid() {
			local = net.UDPAddrFromAddrPort(from)
		}
		c, err = net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to))
	} else {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(from))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// asks sends a datagram and wants it back.
func asks(t *testing.T, c *net.UDPConn, message string) {
	t.Helper()
	if _, err := c.Write([]byte(message)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	if n, err := c.Read(b); err != nil || string(b[:n]) != message {
		t.Fatalf("%d bytes came back for %d, %v", n, len(message), err)
	}
}

func (w *world) sessionCount() (n int) {
	w.T.Helper()
	w.Do(func() { n = w.Table.Count(flow.Session) })
	return n
}

// sessionLimit is the default of flow.Limits.
const sessionLimit = 16384

// B31, B33: a client of the host's loopback is the gateway with its own port,
// and is answered, also where the guest may not reach the host's loopback.
func TestB33_LoopbackClients(t *testing.T) {
	for name, closed := range map[string]bool{"open": false, "disable-host-loopback": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setting{noLoopback: closed})
			eachFamily(t, func(t *testing.T, loop netip.Addr) {
				_, received := w.serveUDP(loop, 53, true)
				to := address(w.publish(UDP, loop, 53))
				a, b := udpClient(t, netip.AddrPort{}, to), udpClient(t, netip.AddrPort{}, to)
				for i := range 100 {
					asks(t, a, fmt.Sprint("a", i))
					asks(t, b, fmt.Sprint("b", i))
				}
				got, want := receive(t, received), datagram{netip.AddrPortFrom(w.gateway(loop), a.LocalAddr().(*net.UDPAddr).AddrPort().Port()), "a0"}
				if got != want {
					t.Errorf("the server received %v, want %v", got, want)
				}
			})
			if n := w.sessionCount(); n < 2 || n > 4 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// B33: the reply leaves from the address that was asked, which a connected
// client insists on, and from the port that was asked.
func TestB33_ReplyFromTheAddressAsked(t *testing.T) {
	w := newWorld(t, setting{})
	w.serveUDP(loop4, 53, true)
	e := w.publish(UDP, netip.IPv4Unspecified(), 53)
	for _, asked := range []string{"127.0.0.1", "127.0.0.5", "127.1.2.3"} {
		c := udpClient(t, netip.AddrPort{}, netip.AddrPortFrom(netip.MustParseAddr(asked), e.Rule.HostPort))
		asks(t, c, "hello "+asked)
	}
	// One client, two addresses in turn.
	c := udpClient(t, netip.AddrPortFrom(loop4, 0), netip.AddrPort{})
	for i := range 6 {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i%2)}), e.Rule.HostPort)
		if _, err := c.WriteToUDPAddrPort([]byte("who"), to); err != nil {
			t.Fatal(err)
		}
		if _, from, err := c.ReadFromUDPAddrPort(make([]byte, 10)); err != nil || from != to {
			t.Errorf("asked %v, answered by %v, %v", to, from, err)
		}
	}
}

// A question to the subnet's broadcast address is answered by the host's own.
func TestB33_BroadcastIsAnswered(t *testing.T) {
	w := newWorld(t, setting{})
	w.serveUDP(loop4, 53, true)
	e := w.publish(UDP, netip.IPv4Unspecified(), 53)
	c := udpClient(t, netip.AddrPortFrom(loop4, 0), netip.AddrPort{})
	to := netip.AddrPortFrom(netip.MustParseAddr("127.255.255.255"), e.Rule.HostPort)
	if _, err := c.WriteToUDPAddrPort([]byte("anybody?"), to); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Second))
	if _, from, err := c.ReadFromUDPAddrPort(make([]byte, 10)); err != nil || from != netip.AddrPortFrom(loop4, e.Rule.HostPort) {
		t.Errorf("answered by %v, %v", from, err)
	}
}

// B33: two clients that are both the gateway, from the same port: neither gets
// what is the other's.
func TestB33_SamePortTwice(t *testing.T) {
	w := newWorld(t, setting{})
	server, received := w.serveUDP(loop4, 53, false)
	to := address(w.publish(UDP, netip.IPv4Unspecified(), 53))
	to = netip.AddrPortFrom(loop4, to.Port())
	port := testnet.FreePort(t, UDP, netip.IPv4Unspecified())
	a := udpClient(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port), to)
	b := udpClient(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), port), to)
	a.Write([]byte("a"))
	first := receive(t, received)
	b.Write([]byte("b"))
	second := receive(t, received)
	for _, d := range []datagram{first, second} {
		if _, err := server.WriteTo([]byte(d.payload), net.UDPAddrFromAddrPort(d.from)); err != nil {
			t.Fatal(err)
		}
	}
	for c, want := range map[*net.UDPConn]string{a: "a", b: "b"} {
		got := make([]byte, 10)
		c.SetDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(got); err != nil || string(got[:n]) != want {
			t.Errorf("%q came for %s, %v", got[:n], want, err)
		}
	}
}

// Datagrams of every size pass both ways, those of no bytes too.
func TestB23_Sizes(t *testing.T) {
	w := newWorld(t, setting{})
	eachFamily(t, func(t *testing.T, loop netip.Addr) {
		w.serveUDP(loop, 53, true)
		c := udpClient(t, netip.AddrPort{}, address(w.publish(UDP, loop, 53)))
		for _, size := range []int{0, 1, 1472, 1473, 8000, 60000} {
			asks(t, c, string(bytes.Repeat([]byte{'x'}, size)))
		}
	})
}

// B24: a burst that comes while the shard is busy with something else is
// carried in whole and in order.
func TestB24_Burst(t *testing.T) {
	w := newWorld(t, setting{idle: true})
	_, received := w.serveUDP(loop4, 53, false)
	c := udpClient(t, netip.AddrPort{}, address(w.publish(UDP, loop4, 53)))
	w.Turn(0)
	b := make([]byte, 500)
	for i := range uint32(200) {
		binary.BigEndian.PutUint32(b, i)
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		w.Turn(0)
	}
	for i := range uint32(200) {
		if got := binary.BigEndian.Uint32([]byte(receive(t, received).payload)); got != i {
			t.Fatalf("datagram %d came as number %d", got, i)
		}
	}
}

// A session ends sessionIdle after it was last used, either way.
func TestSessionsExpire(t *testing.T) {
	clock := new(shardtest.Clock)
	w := newWorld(t, setting{clock: clock})
	server, received := w.serveUDP(loop4, 53, false)
	to := address(w.publish(UDP, loop4, 53))
	c := udpClient(t, netip.AddrPort{}, to)
	pass := func(d time.Duration) {
		clock.Advance(d)
		w.Do(func() {})
		w.Do(func() {})
	}
	ask := func() datagram {
		t.Helper()
		if _, err := c.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		return receive(t, received)
	}
	d := ask()
	pass(sessionIdle - time.Second)
	if n := w.sessionCount(); n != 1 {
		t.Fatalf("%d sessions before the time", n)
	}
	if _, err := server.WriteTo([]byte("pong"), net.UDPAddrFromAddrPort(d.from)); err != nil { // used by the guest
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	pass(sessionIdle - time.Second)
	if n := w.sessionCount(); n != 1 {
		t.Fatalf("%d sessions: a reply is no use", n)
	}
	ask() // used by the client
	pass(sessionIdle - time.Second)
	if n := w.sessionCount(); n != 1 {
		t.Fatalf("%d sessions: a question is no use", n)
	}
	pass(time.Second)
	w.Do(func() {
		if n := w.Table.Count(flow.Session); n != 0 {
			t.Errorf("%d sessions after the time", n)
		}
	})
	ask() // and again
	if n := w.sessionCount(); n != 1 {
		t.Fatalf("%d sessions of a client that came back", n)
	}
}

// Sessions are bounded, and the least recently used makes room.
func TestSessionsAreBounded(t *testing.T) {
	w := newWorld(t, setting{})
	e := w.publish(UDP, loop4, 53)
	from := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 4444)
	}
	w.Do(func() {
		u := w.rules[e.ID].sockets[0].(*udpPort)
		ask := func(i int) {
			var a sockio.Addr
			a.Set(from(i))
			u.Received(&a, nil, 1, [][]byte{[]byte("x")})
		}
		for i := range sessionLimit {
			ask(i)
		}
		ask(0) // used again
		for i := range 100 {
			ask(sessionLimit + i)
		}
		if n := w.Table.Count(flow.Session); n != sessionLimit {
			t.Errorf("%d sessions, want %d", n, sessionLimit)
		}
		guest := netip.AddrPortFrom(w.Guest.Addr, 53)
		for i, want := range map[int]bool{0: true, 1: false, 100: false, 101: true, sessionLimit + 99: true} {
			if got := w.Table.Find(flow.Session, unix.IPPROTO_UDP, guest, from(i)) != nil; got != want {
				t.Errorf("client %d is remembered: %v, want %v", i, got, want)
			}
		}
	})
	if err := w.Remove(e.ID); err != nil {
		t.Fatal(err)
	}
	if n := w.sessionCount(); n != 0 {
		t.Errorf("%d sessions of a rule that is gone", n)
	}
}

// Removing one rule leaves the clients of the others.
func TestRemoveLeavesOtherSessions(t *testing.T) {
	w := newWorld(t, setting{})
	w.serveUDP(loop4, 53, true)
	one, two := w.publish(UDP, loop4, 53), w.publish(UDP, loop4, 53)
	a, b := udpClient(t, netip.AddrPort{}, address(one)), udpClient(t, netip.AddrPort{}, address(two))
	asks(t, a, "one")
	asks(t, b, "two")
	if err := w.Remove(one.ID); err != nil {
		t.Fatal(err)
	}
	if n := w.sessionCount(); n != 1 {
		t.Errorf("%d sessions, want the other's", n)
	}
	asks(t, b, "still two")
	fd, errno := tryBind(UDP, address(one))
	if errno != 0 {
		t.Fatalf("the port of a removed rule: %v", errno)
	}
	unix.Close(fd)
}
