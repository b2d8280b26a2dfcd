package portfwd

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/testnet"
)

// echoUDP answers at an address of the host, and tells who has asked.
func echoUDP(t testing.TB, loop netip.Addr) (port uint16, from <-chan netip.AddrPort) {
	t.Helper()
	c, at := testnet.ListenUDP(t, netip.AddrPortFrom(loop, 0).String())
	seen := make(chan netip.AddrPort, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			select {
			case seen <- from:
			default:
			}
			c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return at.Port(), seen
}

// Clients of either family reach the server of their family on the host's loopback, each
// by a socket of its own, and a rule may name another address and map a range.
func TestExposedUDP(t *testing.T) {
	w := newWorld(t, setting{noLoopback: true})
	eachFamily(t, func(t *testing.T, loop netip.Addr) {
		port, seen := echoUDP(t, loop)
		at := netip.AddrPortFrom(loop, testnet.FreePort(t, UDP, loop))
		if err := w.exposeRule(Exposed{Proto: UDP, Guest: loop, GuestPort: at.Port(), HostPort: port}); err != nil {
			t.Fatal(err)
		}
		a, b := udpClient(t, netip.AddrPort{}, at), udpClient(t, netip.AddrPort{}, at)
		asks(t, a, "one")
		asks(t, b, "other")
		asks(t, a, "one again")
		first, second, third := receive(t, seen), receive(t, seen), receive(t, seen)
		if first == second || first != third || first.Addr() != loop {
			t.Errorf("the server sees %v, %v and %v", first, second, third)
		}
		big := bytes.Repeat([]byte("x"), 60000)
		asks(t, a, string(big))
		w.Do(func() {
			r := w.Table.Find(flow.Mapping, unix.IPPROTO_UDP, a.LocalAddr().(*net.UDPAddr).AddrPort(), at)
			if r == nil || r.Origin != flow.FromExposed || r.In != r.Out || r.Out != 60012 {
				t.Errorf("the flow is described as %+v", r)
			}
		})
	})
	target := netip.MustParseAddr("127.0.0.9")
	port, _ := echoUDP(t, target)
	first := freeRange(t, loop4, 3)
	if err := w.exposeRule(Exposed{Proto: UDP, Guest: loop4, GuestPort: first, GuestPortEnd: first + 2, Host: target, HostPort: port - 1}); err != nil {
		t.Fatal(err)
	}
	asks(t, udpClient(t, netip.AddrPort{}, netip.AddrPortFrom(loop4, first+1)), "mapped")
	if err := w.Change(t.Context(), Change{Hide: w.ListExposed()}); err != nil {
		t.Fatal(err)
	}
	w.eventually("no client is left", func() bool { return w.Table.Count(flow.Mapping) == 0 })
}

// Clients are bounded: the one that was silent for longest gives way.
func TestExposedUDPClientsAreBounded(t *testing.T) {
	w := newWorld(t, setting{noIPv6: true, limits: flow.Limits{Mappings: 4}})
	port, _ := echoUDP(t, loop4)
	at := netip.AddrPortFrom(loop4, testnet.FreePort(t, UDP, loop4))
	if err := w.exposeRule(Exposed{Proto: UDP, Guest: loop4, GuestPort: at.Port(), HostPort: port}); err != nil {
		t.Fatal(err)
	}
	before := testnet.Descriptors(t)
	var all []*net.UDPConn
	for range 10 {
		c := udpClient(t, netip.AddrPort{}, at)
		asks(t, c, "hello")
		all = append(all, c)
	}
	w.Do(func() {
		if n := w.Table.Count(flow.Mapping); n != 4 {
			t.Errorf("%d clients are remembered, want 4", n)
		}
	})
	if n := testnet.Descriptors(t) - before - len(all); n > 4 {
		t.Errorf("%d descriptors for 4 clients", n)
	}
	asks(t, all[0], "back")
}

// A TCP range may lead to another range of another address.
func TestExposedRange(t *testing.T) {
	w := newWorld(t, setting{})
	target := netip.MustParseAddr("127.0.0.9")
	port := serveHost(t, target, echo)
	first := freeRange(t, loop4, 3)
	if err := w.exposeRule(Exposed{GuestPort: first, GuestPortEnd: first + 2, Host: target, HostPort: port - 2}); err != nil {
		t.Fatal(err)
	}
	says(t, dial(t, netip.AddrPortFrom(loop4, first+2)), "hello")
	says(t, dial(t, netip.AddrPortFrom(netip.IPv6Loopback(), first+2)), "hello")
	if err := refusal(t, netip.AddrPortFrom(loop4, first)); !isReset(err) {
		t.Errorf("nobody listens there: %v", err)
	}
}
