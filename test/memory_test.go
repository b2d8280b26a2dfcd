package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What docs/manual.md promises of the memory of TCP buffers: so much in all, and so
// much for each connection and direction. The program itself takes some, too.
const (
	bufferBudget  = 512 << 20
	bufferMinimum = 64 << 10
	programMemory = 128 << 20
)

// greedy connects from the guest n times with the smallest receive buffer, sends a byte
// on each and leaves them as they are until the test ends. then is called in the guest
// for each.
func (w *world) greedy(t *testing.T, f family, addr string, n int, then func(*net.TCPConn) error) {
	t.Helper()
	small := net.Dialer{Timeout: deadline, Control: func(_, _ string, c syscall.RawConn) (err error) {
		c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })
		return err
	}}
	if err := w.Do(func() error {
		for i := range n {
			c, err := small.DialContext(context.Background(), "tcp"+f.v, addr)
			if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			t.Cleanup(func() { c.Close() })
			if _, err = c.Write([]byte{1}); err == nil {
				err = then(c.(*net.TCPConn))
			}
			if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// within checks what the helper takes, and that it still serves.
func (w *world) within(t *testing.T, f family, most int64) {
	t.Helper()
	rss := w.usage(t).RSS
	t.Logf("the helper has %d MB", rss>>20)
	if rss > most {
		t.Errorf("the helper has %d MB, want %d at most", rss>>20, most>>20)
	}
	addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
	if err := w.Do(func() error { return oneByte(f, hostPort(f.server, addr)) }); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// B17: connections that both ends have closed, or believe to have, still count while
// the guest does not take what they hold.
func TestB17_ClosedConnectionsStayWithinTheBudget(t *testing.T) {
	ours(t, "a bound of its memory")
	w, f := serve(t, "--mtu=65520"), families()[0]
	const answer = 900 << 10
	n := descriptorRoom(t, 1500)
	var answered sync.WaitGroup
	answered.Add(n)
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
		defer answered.Done()
		io.ReadFull(c, make([]byte, 1))
		c.SetDeadline(time.Now().Add(time.Second))
		c.Write(make([]byte, answer))
	})
	w.greedy(t, f, hostPort(f.server, addr), n, (*net.TCPConn).CloseWrite)
	answered.Wait()
	w.within(t, f, bufferBudget+int64(n)*bufferMinimum+programMemory)
}

// B17: a server that sends single bytes to guests that do not read makes the helper hold
// them, and not a kilobyte for each. When all have gone the memory has, too.
func TestB17_SingleBytesStayWithinTheBudget(t *testing.T) {
	ours(t, "a bound of its memory")
	w, f := serve(t, "--mtu=65520"), families()[0]
	const n, bytes = 100, 4000
	before := w.usage(t)
	servers, conns := make(chan *net.TCPConn, n), make(chan *net.TCPConn, n)
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.Write(make([]byte, 16<<10)) // more than the guest's kernel takes
		servers <- c
		io.Copy(io.Discard, c)
	})
	w.greedy(t, f, hostPort(f.server, addr), n, func(c *net.TCPConn) error {
		conns <- c
		return nil
	})
	var all []*net.TCPConn
	for range n {
		all = append(all, <-servers)
	}
	for range bytes { // in turn, so that the helper reads each byte by itself
		for _, c := range all {
			c.SetWriteDeadline(time.Now().Add(deadline))
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.within(t, f, before.RSS+n*(256<<10)+programMemory/4)
	for range n {
		c := <-conns
		c.SetLinger(0)
		c.Close()
	}
	w.backTo(t, before, 40<<20)
}

// B17: guests' bytes for servers that do not read stay within the budget.
func TestB17_ServersThatDoNotRead(t *testing.T) {
	ours(t, "a bound of its memory")
	w, f := serve(t, "--mtu=1500"), families()[0]
	const n = 600
	release := make(chan struct{})
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
		c.SetReadBuffer(1)
		<-release
	})
	t.Cleanup(func() { close(release) })
	w.greedy(t, f, hostPort(f.server, addr), n, func(c *net.TCPConn) error {
		c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		for {
			if _, err := c.Write(make([]byte, 2000)); err != nil {
				return nil
			}
		}
	})
	w.within(t, f, bufferBudget+n*2*bufferMinimum+programMemory)
}
