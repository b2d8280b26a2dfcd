package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// sockaddr gives the kernel's form of an address and a port.
func sockaddr(addr string, port int) unix.Sockaddr {
	a := netip.MustParseAddr(addr)
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: port}
}

// descriptorRoom lowers a number of connections to what the soft limit allows
// when each takes two descriptors of ours.
func descriptorRoom(t *testing.T, want int) int {
	t.Helper()
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if room := (int(min(lim.Cur, 1<<20)) - 500) / 2; room < want {
		t.Logf("%d connections instead of %d: the descriptor limit is %d", room, want, lim.Cur)
		return room
	}
	return want
}

// TestB16_ShortConnectionsInARow: 10 000, and nothing stays behind.
func TestB16_ShortConnectionsInARow(t *testing.T) {
	const total = 10_000
	alone(t, func(t *testing.T, w *world, f family) {
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err == nil {
				_, _ = c.Write(b)
				_, _ = c.Read(b) // the client ends it, so that TIME_WAIT is the guest's
			}
		})
		before := w.usage(t)
		begin := time.Now()
		if err := w.Do(func() error {
			for i := range total {
				if err := oneByte(f, hostPort(f.server, addr)); err != nil {
					return fmt.Errorf("connection %d: %w", i, err)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d connections in %v", total, time.Since(begin).Round(time.Millisecond))
		w.backTo(t, before, 64<<20)
	})
}

// oneByte is a whole short connection, made by a caller that is in the guest.
func oneByte(f family, addr string) error {
	c, err := net.DialTimeout("tcp"+f.v, addr, deadline)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// TestB16_ConcurrentConnections: 5000 at once each get their own bytes back;
// then descriptors, threads and memory return to where they were.
func TestB16_ConcurrentConnections(t *testing.T) {
	ours(t, "room for 5000 connections in its descriptor limit")
	alone(t, func(t *testing.T, w *world, f family) {
		total := descriptorRoom(t, 5000)
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		// The first round pays for what is kept on purpose: pools, tables, threads.
		w.manyConnections(t, f, hostPort(f.server, addr), total/10)
		before := w.usage(t)
		begin := time.Now()
		w.manyConnections(t, f, hostPort(f.server, addr), total)
		t.Logf("%d connections opened, used and closed in %v", total, time.Since(begin).Round(time.Millisecond))
		w.backTo(t, before, 160<<20)
	})
}

// TestB16_MemoryIsGivenBack: some seconds after a burst is over the system has
// its memory again, and need not wait for the next one.
func TestB16_MemoryIsGivenBack(t *testing.T) {
	ours(t, "a promise of ours")
	w := serve(t, "--mtu=65520")
	eachFamily(t, func(t *testing.T, f family) {
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		before, n := w.usage(t), descriptorRoom(t, 4000)
		w.manyConnections(t, f, hostPort(f.server, addr), n)
		if grown := w.usage(t).RSS - before.RSS; grown < 10<<20 {
			t.Fatalf("%d connections took %d bytes: there is nothing to give back", n, grown)
		}
		// What is left are tables that do not shrink, and code that was used.
		w.backTo(t, before, 8<<20)
	})
}

// shareOut makes connections 0 to n-1 in a namespace, several at a time.
func shareOut(ns *harness.NetNS, workers, n int, one func(i int) error) error {
	var wg sync.WaitGroup
	failures := make([]error, workers)
	for first := range workers {
		wg.Go(func() {
			failures[first] = ns.Do(func() error {
				for i := first; i < n; i += workers {
					if err := one(i); err != nil {
						return fmt.Errorf("connection %d of %d: %w", i, n, err)
					}
				}
				return nil
			})
		})
	}
	wg.Wait()
	return errors.Join(failures...)
}

// manyConnections opens n connections, 64 at a time, uses all of them while all
// are open and closes them.
func (w *world) manyConnections(t *testing.T, f family, addr string, n int) {
	t.Helper()
	conns := make([]net.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	const workers = 64
	if err := shareOut(w.NetNS, workers, n, func(i int) (err error) {
		conns[i], err = net.DialTimeout("tcp"+f.v, addr, deadline)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := shareOut(w.NetNS, workers, n, func(i int) error {
		if err := conns[i].SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return err
		}
		want := fmt.Sprintf("connection %d", i)
		if _, err := io.WriteString(conns[i], want); err != nil {
			return err
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conns[i], got); err != nil {
			return err
		}
		if string(got) != want {
			return fmt.Errorf("%q came back for %q", got, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
