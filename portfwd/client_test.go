package portfwd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/flow"
	"epiphyte/internal/shard/shardtest"
	"epiphyte/internal/sockio"
	"epiphyte/internal/testnet"
)

// A client that says what it has to say and goes before the guest has heard of
// it: the server hears all of it, and the end.
func TestClientThatGoesEarly(t *testing.T) {
	w := newWorld(t, setting{})
	heard := make(chan string, 1)
	w.serve(loop4, 80, func(c net.Conn) {
		b, err := io.ReadAll(c)
		heard <- fmt.Sprint(string(b), err)
	})
	to := address(w.publish(TCP, loop4, 80))
	for i := range 20 {
		c := dial(t, to)
		var err error
		if i%2 == 0 {
			_, err = io.WriteString(c, "farewell")
		}
		if err = errors.Join(err, c.Close()); err != nil {
			t.Fatal(err)
		}
		want := "farewell<nil>"
		if i%2 != 0 {
			want = "<nil>"
		}
		if got := receive(t, heard); got != want {
			t.Errorf("the server heard %q, want %q", got, want)
		}
	}
	w.wantIdle()
}

// A client that resets while it waits for a silent guest holds its place no
// longer than one that stays.
func TestClientThatResetsWhileWaiting(t *testing.T) {
	clock := new(shardtest.Clock)
	w := newWorld(t, setting{clock: clock})
	e, err := w.Add(t.Context(), Rule{Host: loop4, HostPort: testnet.FreePort(t, TCP, loop4), Guest: silent4})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, address(e))
	w.eventually("the client waits", func() bool { return w.Table.Count(flow.Client) == 1 })
	c.SetLinger(0)
	c.Close()
	clock.Advance(dialTimeout)
	w.eventually("the client is given up", func() bool { return w.Table.Count(flow.Client) == 0 })
	w.wantIdle()
}

// A client that uses its port again at once is let in again at once, whoever
// has ended the connection before.
func TestPortUsedAgainAtOnce(t *testing.T) {
	w := newWorld(t, setting{})
	w.serve(loop4, 80, echo)
	w.serve(loop4, 81, func(c net.Conn) { io.WriteString(c, "bye") })
	client := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(loop4, testnet.FreePort(t, TCP, loop4))),
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}), err)
		},
	}
	connect := func(to netip.AddrPort) *net.TCPConn {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := client.DialContext(ctx, "tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		return c.(*net.TCPConn)
	}
	resets, ends := address(w.publish(TCP, loop4, 80)), address(w.publish(TCP, loop4, 81))
	for range 10 {
		c := connect(resets)
		says(t, c, "hello")
		c.SetLinger(0)
		c.Close()
		c = connect(ends)
		if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
			t.Errorf("the server said %q, %v", b, err)
		}
		// As its side ends second, the client's port is free.
		c.Close()
	}
	w.wantIdle()
}

// Removing a range does not keep the data path waiting, however many clients
// are remembered.
func TestRemoveRangeIsQuick(t *testing.T) {
	w := newWorld(t, setting{})
	const n = 1000
	first := freeRange(t, loop4, n)
	other := w.publish(UDP, loop4, 53)
	e, err := w.Add(t.Context(), Rule{Proto: UDP, Host: loop4, HostPort: first, HostPortEnd: first + n - 1})
	if err != nil {
		t.Fatal(err)
	}
	w.Do(func() {
		var a sockio.Addr
		u := w.rules[other.ID].sockets[0].(*udpPort)
		for i := range sessionLimit {
			a.Set(netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 4444))
			u.Received(&a, nil, 0, nil)
		}
	})
	// In processor time, which other programs have no part in.
	worked := func() (d time.Duration) {
		w.Do(func() {
			var ts unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
				t.Error(err)
			}
			d = time.Duration(ts.Nano())
		})
		return d
	}
	before := worked()
	if err := w.Remove(e.ID); err != nil {
		t.Fatal(err)
	}
	took := worked() - before
	t.Logf("%d ports removed in %v", n, took)
	if took > 200*time.Millisecond {
		t.Errorf("the data path was at it for %v", took)
	}
	if got := w.sessionCount(); got != sessionLimit {
		t.Errorf("%d sessions of the other rule are left, want %d", got, sessionLimit)
	}
}
