package portfwd

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/testnet"
)

// listens reports whether something listens at a TCP address.
func listens(at netip.AddrPort) bool {
	fd, errno := tryBind(TCP, at)
	if errno == 0 {
		closeFD(fd)
	}
	return errno != 0
}

// Ports of servers that come are published, and closed when these go; what a rule does
// not cover, and what another rule has, is left alone.
func TestAutoPublish(t *testing.T) {
	w := newWorld(t, setting{auto: true})
	first := freeRange(t, loop4, 40)
	to := first + 20
	w.serve(loop4, to+3, echo)
	if _, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: first, HostPortEnd: first + 9, GuestPort: to, Auto: true}); err != nil {
		t.Fatal(err)
	}
	at := func(i uint16) netip.AddrPort { return netip.AddrPortFrom(loop4, first+i) }
	server := func(i uint16) net.Listener {
		l, err := net.Listen("tcp4", netip.AddrPortFrom(loop4, to+i).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	l := server(3)
	server(11) // beyond the range
	if !testnet.Within(patience, func() bool { return listens(at(3)) }) {
		t.Fatal("the port of a server that came is not published")
	}
	says(t, dial(t, at(3)), "hello")
	for i := range uint16(20) {
		if i != 3 && listens(at(i)) {
			t.Errorf("port %d is published", i)
		}
	}
	// A rule that names the port has it.
	e, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: first + 3, GuestPort: to + 3})
	if err != nil {
		t.Fatal(err)
	}
	says(t, dial(t, at(3)), "named")
	if err := w.Remove(e.ID); err != nil {
		t.Fatal(err)
	}
	l.Close()
	server(4)
	if !testnet.Within(patience, func() bool { return listens(at(4)) && !listens(at(3)) }) {
		t.Errorf("after the server has gone: port 3 listens %v, port 4 %v", listens(at(3)), listens(at(4)))
	}
	if err := w.Change(t.Context(), Change{Remove: []Rule{w.List()[0].Rule}}); err != nil {
		t.Fatal(err)
	}
	if listens(at(4)) {
		t.Error("the rule has gone, and the port is open")
	}
	if !testnet.Within(patience, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.following == nil
	}) {
		t.Error("servers are looked for and no rule wants it")
	}
}

// A port that another program has is published soon after that has ended.
func TestAutoTakesOver(t *testing.T) {
	w := newWorld(t, setting{auto: true})
	first := freeRange(t, loop4, 20)
	holder, err := net.Listen("tcp4", netip.AddrPortFrom(loop4, first).String())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if _, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: first, HostPortEnd: first + 9, GuestPort: first + 10, Auto: true}); err != nil {
		t.Fatal(err)
	}
	for i := range uint16(2) {
		w.serve(loop4, first+10+i, echo)
		l, err := net.Listen("tcp4", netip.AddrPortFrom(loop4, first+10+i).String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if !testnet.Within(patience, func() bool { return listens(netip.AddrPortFrom(loop4, first+1)) }) {
		t.Fatal("servers are not followed") // and the first port has been tried by now
	}
	holder.Close()
	freed := time.Now()
	if !testnet.Within(autoRetry/2, func() bool { return listens(netip.AddrPortFrom(loop4, first)) }) {
		t.Errorf("not published within %v", time.Since(freed))
	}
	says(t, dial(t, netip.AddrPortFrom(loop4, first)), "hello")
}

// Ports of the host's servers are exposed, both protocols' for UDP, at both loopback
// addresses; and they are not published back.
func TestAutoExpose(t *testing.T) {
	w := newWorld(t, setting{auto: true})
	first := freeRange(t, loop4, 40)
	to := first + 20
	for _, e := range []Exposed{
		{GuestPort: first, GuestPortEnd: first + 9, HostPort: to, Auto: true},
		{Proto: UDP, GuestPort: first, GuestPortEnd: first + 9, HostPort: to, Auto: true},
	} {
		if err := w.exposeRule(e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Add(t.Context(), Rule{Host: netip.MustParseAddr("127.0.0.7"), HostPort: first, HostPortEnd: first + 9, Auto: true}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", to+2))
	if err != nil {
		t.Fatal(err)
	}
	acceptAll(t, l, echo)
	u, err := net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", to+2))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(b[:n], from)
		}
	}()
	for _, loop := range []netip.Addr{loop4, netip.IPv6Loopback()} {
		at := netip.AddrPortFrom(loop, first+2)
		if !testnet.Within(patience, func() bool { return listens(at) }) {
			t.Fatalf("%v is not exposed", at)
		}
		says(t, dial(t, at), "hello")
	}
	at := netip.AddrPortFrom(loop4, first+2)
	if !testnet.Within(patience, func() bool { fd, errno := tryBind(UDP, at); closeFD(fd); return errno != 0 }) {
		t.Fatalf("UDP %v is not exposed", at)
	}
	asks(t, udpClient(t, netip.AddrPort{}, at), "hello")
	// A look or two later: what is exposed is a server of the guest's, but ours.
	w.mu.Lock()
	for _, p := range w.rules {
		if p.exposed == nil && len(p.followed) > 0 {
			t.Errorf("published back: %v", p.followed)
		}
	}
	w.mu.Unlock()
}

// Where nobody can be asked, a rule with Auto is refused; any other is not.
func TestAutoRefused(t *testing.T) {
	w := newWorld(t, setting{})
	if _, err := w.Add(t.Context(), Rule{HostPort: 1, HostPortEnd: 65535, Auto: true}); err == nil {
		t.Error("a rule is taken that nobody can follow")
	}
	if err := w.exposeRule(Exposed{GuestPort: 1, GuestPortEnd: 65535, Auto: true}); err == nil {
		t.Error("a rule is taken that nobody can follow")
	}
}

func closeFD(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}
