package portfwd

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/policy"
	"epiphyte/internal/testnet"
)

// here makes sockets of this namespace, and counts them.
type here struct {
	t    *testing.T
	made int // shard's thread
}

func (h *here) Transparent(int) bool { return true }

func (h *here) Socket(family int, take func(fd int) bool) { h.make(family, unix.SOCK_STREAM, take) }

func (h *here) Datagrams(family int, take func(fd int) bool) { h.make(family, unix.SOCK_DGRAM, take) }

func (h *here) make(family, typ int, take func(fd int) bool) {
	h.made++
	fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		h.t.Error(err)
	}
	if !take(fd) {
		unix.Close(fd)
	}
}

// moved is a Decider that has clients of one address go to another, which both are
// loopback's, and be seen as client.
type moved struct {
	policy.Decider
	from, to, client netip.Addr
}

func (m moved) Decide(q policy.Request) policy.Decision {
	if q.Dst.Addr() != m.from {
		return m.Decider.Decide(q)
	}
	return policy.Decision{
		Action: policy.Allow,
		From:   netip.AddrPortFrom(m.client, q.Src.Port()),
		To:     netip.AddrPortFrom(m.to, q.Dst.Port()),
	}
}

// The server's address says whose sockets a client is carried in by: those of one guest
// are not another's, and a guest that has none is reached by the stack.
func TestSocketsOfTheServersGuest(t *testing.T) {
	var (
		with    = netip.MustParseAddr("10.0.2.77")
		at      = netip.MustParseAddr("127.0.0.2") // where the guest with sockets really is
		seen    = netip.MustParseAddr("127.0.0.3")
		sockets = &here{t: t}
	)
	var asked []netip.Addr
	w := newWorld(t, setting{
		policy: moved{&policy.Rules{Plan: addressingtest.New(t)}, with, at, seen},
		sockets: func(a netip.Addr) Sockets {
			asked = append(asked, a) // shard's thread
			if a == at {
				return sockets
			}
			return nil
		},
	})
	guestPort := testnet.FreePort(t, TCP, at)
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, guestPort).String())
	if err != nil {
		t.Fatal(err)
	}
	acceptAll(t, l, func(c net.Conn) { io.WriteString(c, c.RemoteAddr().String()) })
	w.serve(loop4, guestPort, echo)

	e, err := w.Add(t.Context(), Rule{Proto: TCP, Host: loop4, HostPort: testnet.FreePort(t, TCP, loop4), Guest: with, GuestPort: guestPort})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, address(e))
	got, err := io.ReadAll(c)
	if want := netip.AddrPortFrom(seen, c.LocalAddr().(*net.TCPAddr).AddrPort().Port()).String(); err != nil || string(got) != want {
		t.Errorf("the server saw %q, want %q (%v)", got, want, err)
	}
	says(t, dial(t, address(w.publish(TCP, loop4, guestPort))), "by the stack")
	w.Do(func() {
		if sockets.made != 1 {
			t.Errorf("%d sockets were taken, want 1", sockets.made)
		}
		if !slices.Equal(asked, []netip.Addr{with, at, w.Plan.Guest}) {
			t.Errorf("asked for the sockets of %v", asked)
		}
	})
}

// A client of the host's loopback that is to be the guest itself is connected within the
// guest's kernel; where nobody answers there, it goes by the stack path, as the gateway,
// and that is no reason for other clients to do the same.
func TestSplice(t *testing.T) {
	sockets := &here{t: t}
	w := newWorld(t, setting{
		policy:  &policy.Rules{Plan: addressingtest.New(t), Splice: true, LoopbackToLoopback: true},
		sockets: func(netip.Addr) Sockets { return sockets },
	})
	seen := make(chan netip.Addr, 1)
	tell := func(c net.Conn) {
		seen <- netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()
		echo(c)
	}
	port := serveHost(t, loop4, tell) // stands for a server on the guest's loopback
	says(t, dial(t, address(w.publish(TCP, loop4, port))), "inside")
	if got := receive(t, seen); got != loop4 {
		t.Errorf("the server sees %v, want its own loopback", got)
	}
	other := testnet.FreePort(t, TCP, loop4)
	w.serve(loop4, other, tell)
	e := w.publish(TCP, loop4, other)
	says(t, dial(t, address(e)), "by the device")
	if got := receive(t, seen); got != w.Plan.Gateway {
		t.Errorf("the server sees %v, want the gateway", got)
	}
	w.Do(func() {
		if p := w.rules[e.ID].sockets[0].(*tcpPort); p.avoid != 0 {
			t.Error("other clients do not try the direct path")
		}
	})
}
