package portfwd

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/testnet"
)

func isReset(err error) bool { return errors.Is(err, unix.ECONNRESET) }

// B31: a client on the host's loopback is the gateway, with its own port.
func TestB31_LoopbackClientIsTheGateway(t *testing.T) {
	w := newWorld(t, setting{})
	eachFamily(t, func(t *testing.T, loop netip.Addr) {
		seen := make(chan string, 1)
		w.serve(loop, 80, func(c net.Conn) {
			seen <- c.RemoteAddr().String()
			echo(c)
		})
		c := dial(t, address(w.publish(TCP, loop, 80)))
		want := netip.AddrPortFrom(w.gateway(loop), c.LocalAddr().(*net.TCPAddr).AddrPort().Port())
		if got := receive(t, seen); got != want.String() {
			t.Errorf("the server saw %v, want %v", got, want)
		}
		says(t, c, "hello")
		c.Close()
		w.wantIdle()
	})
}

// Which clients keep their address, and which are the gateway.
func TestVisible(t *testing.T) {
	w := newWorld(t, setting{idle: true})
	for client, want := range map[string]string{
		"192.0.2.9":       "192.0.2.9",
		"10.0.3.1":        "10.0.3.1",
		"127.0.0.1":       "10.0.2.2",
		"127.9.9.9":       "10.0.2.2",
		"10.0.2.1":        "10.0.2.2", // the guest's own subnet
		"10.0.2.100":      "10.0.2.2", // its own address
		"10.0.2.3":        "10.0.2.2", // ours
		"169.254.1.1":     "10.0.2.2", // never leaves a link
		"2001:db8::9":     "2001:db8::9",
		"::1":             "fd00::2",
		"fd00::64":        "fd00::2",
		"fd00::3":         "fd00::2",
		"fd00:0:0:1::64":  "fd00:0:0:1::64",
		"fe80::1":         "fd00::2",
		"198.51.100.1":    "198.51.100.1",
		"255.255.255.254": "255.255.255.254",
	} {
		from, server := netip.MustParseAddr(client), w.Plan.Guest
		if from.Is6() {
			server = w.Plan.Guest6
		}
		got := w.decide(unix.IPPROTO_TCP, netip.AddrPortFrom(from, 4444), netip.AddrPortFrom(server, 80), false).From
		if got != netip.AddrPortFrom(netip.MustParseAddr(want), 4444) {
			t.Errorf("%s is seen as %v, want %s", client, got, want)
		}
	}
}

// Two clients that are both the gateway, from the same port: each has a
// connection of its own, with its own bytes.
func TestB31_SamePortTwice(t *testing.T) {
	w := newWorld(t, setting{})
	w.serve(loop4, 80, echo)
	to := address(w.publish(TCP, netip.IPv4Unspecified(), 80))
	port := testnet.FreePort(t, TCP, netip.IPv4Unspecified())
	var clients []*net.TCPConn
	for _, from := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		local := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), port))
		c, err := net.DialTCP("tcp4", local, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(to.Port())})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		clients = append(clients, c)
	}
	for range 3 {
		for _, c := range clients {
			says(t, c, c.LocalAddr().String())
		}
	}
}

// refusal is the error that a client sees who is not let in: the reset may be
// there before the call that connects has returned.
func refusal(t testing.TB, to netip.AddrPort) error {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	_, err = c.Read(make([]byte, 1))
	return err
}

// B34: nobody listens, and the client is reset at once; a server that appears
// is reached by the same rule.
func TestB34_NobodyListens(t *testing.T) {
	w := newWorld(t, setting{})
	eachFamily(t, func(t *testing.T, loop netip.Addr) {
		to := address(w.publish(TCP, loop, 80))
		for range 3 {
			begin := time.Now()
			err := refusal(t, to)
			if took := time.Since(begin); !isReset(err) || took > time.Second {
				t.Errorf("the client saw %v after %v, want a reset", err, took)
			}
		}
		w.wantIdle()
		l := w.serve(loop, 80, echo)
		c := dial(t, to)
		says(t, c, "here now")
		l.Close() // the listener alone
		says(t, c, "still")
		c.Close()
		w.wantIdle()
	})
}

// B34: a guest that is silent costs a client dialTimeout and nothing more.
func TestB34_SilentGuest(t *testing.T) {
	clock := new(shardtest.Clock)
	w := newWorld(t, setting{clock: clock})
	// Its Ethernet address is known, but nobody is there to answer.
	e, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: testnet.FreePort(t, TCP, loop4), Guest: silent4, GuestPort: 80})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, address(e))
	if _, err := io.WriteString(c, "anybody there?"); err != nil {
		t.Fatal(err)
	}
	w.eventually("the client waits", func() bool { return w.Table.Count(flow.Client) == 1 })
	clock.Advance(dialTimeout - time.Millisecond)
	w.Do(func() {})
	w.Do(func() {
		if w.Table.Count(flow.Client) != 1 {
			t.Errorf("%d attempts a moment before the time is over", w.Table.Count(flow.Client))
		}
	})
	clock.Advance(time.Millisecond)
	w.eventually("the client is given up", func() bool { return w.Table.Count(flow.Client) == 0 })
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the client saw %v, want a reset", err)
	}
	w.wantIdle()
}

// B11: either side may end its direction first, and the other goes on.
func TestB11_HalfClose(t *testing.T) {
	data := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{11}).Read(data)
	first := func(c net.Conn) error {
		if _, err := io.WriteString(c, "last words"); err != nil {
			return err
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			return err
		}
		got, err := io.ReadAll(c)
		if err == nil && !bytes.Equal(got, data) {
			err = errors.New("other bytes arrived")
		}
		return err
	}
	second := func(c net.Conn) error {
		if got, err := io.ReadAll(c); err != nil || string(got) != "last words" {
			return errors.Join(errors.New("other last words"), err)
		}
		if _, err := c.Write(data); err != nil {
			return err
		}
		return c.(interface{ CloseWrite() error }).CloseWrite()
	}
	w := newWorld(t, setting{})
	eachFamily(t, func(t *testing.T, loop netip.Addr) {
		port := uint16(80)
		for name, sides := range map[string][2]func(net.Conn) error{"client": {first, second}, "server": {second, first}} {
			served := make(chan error, 1)
			w.serve(loop, port, func(c net.Conn) { served <- sides[1](c) })
			c := dial(t, address(w.publish(TCP, loop, port)))
			if err := errors.Join(sides[0](c), receive(t, served)); err != nil {
				t.Errorf("%s stops first: %v", name, err)
			}
			c.Close()
			w.wantIdle()
			port++
		}
	})
}

// B12: a reset on either side is one on the other.
func TestB12_Reset(t *testing.T) {
	w := newWorld(t, setting{})
	accepted, release := make(chan net.Conn, 1), make(chan error, 1)
	w.serve(loop4, 80, func(c net.Conn) {
		accepted <- c
		_, err := c.Read(make([]byte, 100))
		release <- err
	})
	to := address(w.publish(TCP, loop4, 80))

	c := dial(t, to)
	receive(t, accepted)
	c.SetLinger(0)
	c.Close()
	if err := receive(t, release); err == nil || err == io.EOF {
		t.Errorf("the client reset, the server saw %v", err)
	}
	w.wantIdle()

	// A server that closes with bytes unread resets (RFC 9293, 3.6.1), and
	// so does one whose port is gone.
	c = dial(t, to)
	server := receive(t, accepted)
	if _, err := c.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	receive(t, release)
	server.Close()
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("the server reset, the client saw %v", err)
	}
	w.wantIdle()
}

// Hundreds of clients at once, and each gets its own bytes.
func TestB16_ManyAtOnce(t *testing.T) {
	w := newWorld(t, setting{})
	const n = 500
	w.serve(loop4, 80, echo)
	to := address(w.publish(TCP, loop4, 80))
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(2 * patience))
			want := []byte{byte(i), byte(i >> 8), 1, 2, 3}
			got := make([]byte, len(want))
			if _, err := c.Write(want); err != nil {
				t.Error(err)
			} else if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v came back for %v, %v", got, want, err)
			}
		})
	}
	all.Wait()
	w.wantIdle()
}

// Removing a rule closes the listener at once; who is in, and who is on the
// way in, stays.
func TestRemoveLeavesClients(t *testing.T) {
	w := newWorld(t, setting{})
	w.serve(loop4, 80, echo)
	e := w.publish(TCP, loop4, 80)
	to := address(e)
	in := dial(t, to)
	says(t, in, "before")
	if err := w.Remove(e.ID); err != nil {
		t.Fatal(err)
	}
	if c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a client of a removed rule: %v, %v", c, err)
	}
	says(t, in, "after")
	// The port is free again, beside the connection.
	if _, err := w.Add(ended(), e.Rule); err != nil {
		t.Fatal(err)
	}
	says(t, dial(t, to), "a new one")
	says(t, in, "long after")
}
