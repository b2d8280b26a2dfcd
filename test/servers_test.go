package test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"epiphyte/test/harness"
)

// onceFree binds a port that the server before may have closed this moment. A process that a
// test beside this one starts holds copies of our descriptors from its fork to its exec.
func onceFree[T any](t testing.TB, bind func() (T, error)) (bound T) {
	t.Helper()
	eventually(t, deadline, func() (err error) {
		bound, err = bind()
		return err
	})
	return bound
}

// serveTCP runs handle for every connection to a listener in ns. The listener
// and its connections are closed, and their goroutines gone, with the test.
func serveTCP(t testing.TB, ns *harness.NetNS, network, addr string, handle func(*net.TCPConn)) net.Addr {
	t.Helper()
	l := onceFree(t, func() (net.Listener, error) { return ns.Listen(network, addr) })
	serveListener(t, l, handle)
	return l.Addr()
}

// serveOnePort is serveTCP at the same port of several addresses. It tries others if one that is
// free at the first is another test's at the next.
func serveOnePort(t testing.TB, ns *harness.NetNS, handle func(*net.TCPConn), hosts ...string) (at string) {
	t.Helper()
	var listeners []net.Listener
	eventually(t, deadline, func() error {
		at = "0"
		for _, host := range hosts {
			l, err := ns.Listen("tcp", net.JoinHostPort(host, at))
			if err != nil {
				for _, l := range listeners {
					l.Close()
				}
				listeners = nil
				return err
			}
			listeners, at = append(listeners, l), port(l.Addr())
		}
		return nil
	})
	for _, l := range listeners {
		serveListener(t, l, handle)
	}
	return at
}

func serveListener(t testing.TB, l net.Listener, handle func(*net.TCPConn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	live := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			live[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() {
					mu.Lock()
					delete(live, c)
					mu.Unlock()
					c.Close()
				}()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range live {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// echoTCP sends everything back, and the end of the stream too.
func echoTCP(c *net.TCPConn) {
	// Between bare connections io.Copy would splice, which costs two more
	// descriptors for each.
	if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err == nil {
		_ = c.CloseWrite()
	}
}

// servePacket answers every datagram to a socket in ns with what handle
// returns; nil is no answer.
func servePacket(t testing.TB, ns *harness.NetNS, network, addr string, handle func([]byte, net.Addr) []byte) net.PacketConn {
	t.Helper()
	c := onceFree(t, func() (net.PacketConn, error) { return ns.ListenPacket(network, addr) })
	if u, ok := c.(*net.UDPConn); ok {
		// Bursts must meet no bound of the server's. The kernel caps it quietly.
		if err := u.SetReadBuffer(4 << 20); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // an ICMP error for an earlier answer
			}
			if resp := handle(b[:n], from); resp != nil {
				_, _ = c.WriteTo(resp, from)
			}
		}
	})
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
	return c
}

func echoPacket(b []byte, _ net.Addr) []byte { return b }

// random gives n bytes that are the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = src.Read(b) // never fails
	return b
}

// writeChunks writes b in pieces of random size up to limit.
func writeChunks(w io.Writer, b []byte, limit int) error {
	r := rand.New(rand.NewPCG(1, uint64(len(b))))
	for len(b) > 0 {
		n := min(1+r.IntN(limit), len(b))
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
