package portfwd

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/flow"
	"epiphyte/internal/policy"
)

// later is Sockets that come when they are told to.
type later struct {
	here
	waiting chan func(fd int) bool
}

func (l *later) Datagrams(_ int, take func(fd int) bool) { l.waiting <- take }

// A UDP client of the host's loopback that is to be the guest itself has a socket in the
// guest's kernel. What it sends before that is there waits and arrives in order; where none
// comes it goes by the device, as the gateway, and nobody after it waits.
func TestUDPInside(t *testing.T) {
	sockets := &later{here{t: t}, make(chan func(fd int) bool, 10)}
	w := newWorld(t, setting{
		policy:  &policy.Rules{Plan: addressingtest.New(t), Splice: true, LoopbackToLoopback: true},
		sockets: func(netip.Addr) Sockets { return sockets },
	})
	eachFamily(t, func(t *testing.T, loop netip.Addr) {
		port, seen := echoUDP(t, loop) // stands for a server on the guest's loopback
		to := address(w.publish(UDP, loop, port))
		a, b := udpClient(t, netip.AddrPort{}, to), udpClient(t, netip.AddrPort{}, to)
		sent := []string{"one", strings.Repeat("2", 60000), "three"}
		for _, s := range sent {
			if _, err := a.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		take := receive(t, sockets.waiting)
		w.eventually("all wait", func() bool { return w.waiting == 60008 })
		w.Do(func() { sockets.make(familyOf(loop), unix.SOCK_DGRAM, take) })
		buf := make([]byte, 1<<16)
		for _, want := range sent {
			if n, err := a.Read(buf); err != nil || string(buf[:n]) != want {
				t.Fatalf("%d bytes came back for %d, %v", n, len(want), err)
			}
		}
		if from := receive(t, seen); from.Addr() != loop {
			t.Errorf("the server sees %v, want its own loopback", from)
		}
		if len(sockets.waiting) > 0 {
			t.Error("one client has asked for several sockets")
		}
		w.Do(func() {
			r := w.Table.Find(flow.Mapping, unix.IPPROTO_UDP, netip.AddrPortFrom(loop, port), netip.MustParseAddrPort(a.LocalAddr().String()))
			if r == nil || r.Origin != flow.FromPublished || r.In != r.Out || r.In != 60008 || w.waiting != 0 {
				t.Errorf("the flow is described as %+v, and %d bytes wait", r, w.waiting)
			}
		})

		_, received := w.serveUDP(loop, port, true)
		if _, err := b.Write([]byte("first")); err != nil {
			t.Fatal(err)
		}
		take = receive(t, sockets.waiting)
		w.Do(func() { take(-1) })
		for _, want := range []string{"first", "next"} {
			if want == "next" {
				asks(t, b, want)
			} else if n, err := b.Read(buf); err != nil || string(buf[:n]) != want {
				t.Fatalf("%q, %v", buf[:n], err)
			}
			if got := receive(t, received); got.from.Addr() != w.gateway(loop) {
				t.Errorf("the server sees %v, want the gateway", got.from)
			}
		}
	})
}
