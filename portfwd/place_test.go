package portfwd

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
)

// A dual-stack port is one socket that clients of both families come by; each reaches the
// guest's address of its own family, and is answered from the address that it asked.
func TestDualStack(t *testing.T) {
	w := newWorld(t, setting{})
	seen := make(chan netip.Addr, 1)
	for _, loop := range []netip.Addr{loop4, netip.IPv6Loopback()} {
		w.serve(loop, 80, func(c net.Conn) {
			seen <- netip.MustParseAddrPort(c.LocalAddr().String()).Addr()
			echo(c)
		})
		w.serveUDP(loop, 53, true)
	}
	port := freeRange(t, netip.IPv6Unspecified(), 1)
	before := testnet.Descriptors(t)
	for _, r := range []Rule{{DualStack: true, HostPort: port, GuestPort: 80}, {Proto: UDP, DualStack: true, HostPort: port, GuestPort: 53}} {
		if _, err := w.Add(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if n := testnet.Descriptors(t) - before; n != 2 {
		t.Errorf("%d descriptors for two ports", n)
	}
	for host, guest := range map[string]netip.Addr{"127.0.0.1": w.Guest.Addr, "127.0.0.2": w.Guest.Addr, "::1": w.Guest.Addr6} {
		to := netip.AddrPortFrom(netip.MustParseAddr(host), port)
		says(t, dial(t, to), "hello")
		if got := <-seen; got != guest {
			t.Errorf("a client of %v is at the guest's %v", to, got)
		}
		asks(t, udpClient(t, netip.AddrPort{}, to), "hello") // connected: no other address will do
	}
}

// Where the guest is without IPv6, the port is an IPv4 one.
func TestDualStackWithoutIPv6(t *testing.T) {
	w := newWorld(t, setting{noIPv6: true})
	w.serve(loop4, 80, echo)
	port := freeRange(t, netip.IPv6Unspecified(), 1)
	e, err := w.Add(t.Context(), Rule{DualStack: true, HostPort: port, GuestPort: 80})
	if err != nil || e.Rule.DualStack || e.Rule.Host != netip.IPv4Unspecified() {
		t.Fatalf("%+v, %v", e, err)
	}
	says(t, dial(t, netip.AddrPortFrom(loop4, port)), "hello")
	if c, err := net.Dial("tcp", netip.AddrPortFrom(netip.IPv6Loopback(), port).String()); err == nil {
		c.Close()
		t.Error("an IPv6 client is taken")
	}
}

// A dual-stack port is in the way of both families', and they of it.
func TestB36_DualStackInTheWay(t *testing.T) {
	w := newWorld(t, setting{})
	port := freeRange(t, netip.IPv6Unspecified(), 1)
	dual := Rule{DualStack: true, HostPort: port}
	for _, other := range []Rule{
		dual, {HostPort: port}, {Host: loop4, HostPort: port}, {Host: netip.IPv6Unspecified(), HostPort: port},
		{Host: netip.IPv6Loopback(), HostPort: port}, {DualStack: true, Device: "lo", HostPort: port},
	} {
		for _, pair := range [][]Rule{{dual, other}, {other, dual}} {
			b, err := Bind(t.Context(), w.Plan, pair)
			closeAll(b)
			if be, ok := errors.AsType[*BindError](err); !ok || be.Errno != unix.EADDRINUSE {
				t.Errorf("%v and %v: %v", pair[0], pair[1], err)
			}
		}
	}
	b, err := Bind(t.Context(), w.Plan, []Rule{
		{DualStack: true, Device: "lo", HostPort: port}, {Proto: UDP, DualStack: true, HostPort: port},
	})
	if err != nil {
		t.Error(err)
	}
	closeAll(b)
}

// Clients have to come by the device, at any of its addresses.
func TestDevice(t *testing.T) {
	w := newWorld(t, setting{})
	w.serve(loop4, 80, echo)
	port := freeRange(t, netip.IPv6Unspecified(), 1)
	e, err := w.Add(t.Context(), Rule{DualStack: true, Device: "lo", HostPort: port, GuestPort: 80})
	if err != nil {
		t.Fatal(err)
	}
	says(t, dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.5"), port)), "hello")
	w.Do(func() {
		fd := w.rules[e.ID].sockets[0].descriptor()
		if name, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); err != nil || name != "lo" {
			t.Errorf("bound to the device %q, %v", name, err)
		}
	})
	_, err = w.Add(t.Context(), Rule{DualStack: true, Device: "nosuch0", HostPort: port + 1})
	if be, ok := errors.AsType[*BindError](err); !ok || be.Errno != unix.ENODEV || be.Remedy == "" {
		t.Errorf("a device that there is not: %v", err)
	}
}

// An address that no interface has may be listened on if that is wanted.
func TestFreebind(t *testing.T) {
	for _, host := range []string{"192.0.2.77", "2001:db8::77"} {
		r := Rule{Host: netip.MustParseAddr(host), HostPort: 8080, Freebind: true}
		w := newWorld(t, setting{})
		if _, err := w.Add(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
}

// Best effort takes the ports that are free, is not held up by those that are not, takes
// none of another rule's, and leaves those of clients.
func TestBestEffort(t *testing.T) {
	w := newWorld(t, setting{})
	w.serve(loop4, 80, echo)
	const n = 10
	first := freeRange(t, loop4, n)
	busy, errno := tryBind(TCP, netip.AddrPortFrom(loop4, first+3))
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(busy)
	begin := time.Now()
	b, err := Bind(t.Context(), w.Plan, []Rule{
		{Host: loop4, HostPort: first, HostPortEnd: first + n - 1, BestEffort: true},
		{Host: loop4, HostPort: first + 5, GuestPort: 80},
	})
	if took := time.Since(begin); err != nil || took > bindPatience/2 {
		t.Fatalf("%v after %v", err, took)
	}
	if len(b[0].sockets) != n-2 || len(b[1].sockets) != 1 || b[0].leftOut == nil {
		t.Errorf("%d and %d ports are bound, %v", len(b[0].sockets), len(b[1].sockets), b[0].leftOut)
	}
	for _, b := range b {
		if _, err := w.Serve(b); err != nil {
			t.Fatal(err)
		}
	}
	says(t, dial(t, netip.AddrPortFrom(loop4, first+5)), "hello")

	clients := ephemeralPorts()
	b, err = Bind(t.Context(), w.Plan, []Rule{{Host: loop4, HostPort: clients.first - 1, HostPortEnd: clients.first + 5, BestEffort: true}})
	if err != nil || len(b[0].sockets) > 1 {
		t.Errorf("%d ports at the edge of %v, %v", len(b[0].sockets), clients, err)
	}
	closeAll(b)
}
