package forwarder

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"epiphyte/internal/policy"
	"epiphyte/internal/testnet"
)

// TestB10_Echo: what goes round comes back equal, at every size and in every
// chunk, both ways at once.
func TestB10_Echo(t *testing.T) {
	eachKind(t, func(t *testing.T, w *world) {
		for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, addr := listenTCP(t, host)
			echo(t, l)
			for _, tt := range []struct{ size, chunk int }{
				{1, 1}, {100, 1}, {4096, 4096}, {70000, 1000}, {200 << 10, 333}, {4 << 20, 1 << 20},
			} {
				c := w.dial(addr)
				go func() {
					buf := make([]byte, tt.chunk)
					p := new(pattern)
					for left := tt.size; left > 0; left -= len(buf) {
						buf = buf[:min(len(buf), left)]
						p.Read(buf)
						if _, err := c.Write(buf); err != nil {
							t.Errorf("%d bytes by %d: write: %v", tt.size, tt.chunk, err)
							return
						}
					}
					c.CloseWrite()
				}()
				if n, err := io.CopyBuffer(new(pattern), struct{ io.Reader }{c}, make([]byte, 1<<16)); err != nil || n != int64(tt.size) {
					t.Errorf("%d bytes by %d: %d came back, %v", tt.size, tt.chunk, n, err)
				}
				c.Close()
			}
			l.Close()
		}
		w.wantIdle()
	})
}

// TestB11_GuestHalfCloses: the guest shuts its side, the host still sends 10 MB
// and then ends: all of it arrives.
func TestB11_GuestHalfCloses(t *testing.T) {
	const size = 10 << 20
	eachKind(t, func(t *testing.T, w *world) {
		l, _ := listenTCP(t, "127.0.0.1:0")
		guest, host := w.connect(l)
		if _, err := guest.Write([]byte("request")); err != nil {
			t.Fatal(err)
		}
		guest.CloseWrite()
		if b, err := io.ReadAll(host); err != nil || string(b) != "request" {
			t.Fatalf("the host read %q, %v", b, err)
		}
		go func() {
			io.CopyN(host, new(pattern), size)
			host.CloseWrite()
		}()
		if n, err := io.Copy(new(pattern), struct{ io.Reader }{guest}); err != nil || n != size {
			t.Errorf("the guest read %d bytes, %v", n, err)
		}
		guest.Close()
		w.wantIdle()
	})
}

// TestB11_HostHalfCloses is the mirror image.
func TestB11_HostHalfCloses(t *testing.T) {
	const size = 10 << 20
	eachKind(t, func(t *testing.T, w *world) {
		l, _ := listenTCP(t, "127.0.0.1:0")
		guest, host := w.connect(l)
		if _, err := host.Write([]byte("banner")); err != nil {
			t.Fatal(err)
		}
		host.CloseWrite()
		if b, err := io.ReadAll(guest); err != nil || string(b) != "banner" {
			t.Fatalf("the guest read %q, %v", b, err)
		}
		go func() {
			io.CopyN(struct{ io.Writer }{guest}, new(pattern), size)
			guest.CloseWrite()
		}()
		if n, err := io.Copy(new(pattern), struct{ io.Reader }{host}); err != nil || n != size {
			t.Errorf("the host read %d bytes, %v", n, err)
		}
		guest.Close()
		w.wantIdle()
	})
}

// TestB12_HostResets: the guest learns of the reset within 100 ms, idle or
// with data under way, before and after half closes.
func TestB12_HostResets(t *testing.T) {
	eachKind(t, func(t *testing.T, w *world) {
		l, _ := listenTCP(t, "127.0.0.1:0")
		for _, tt := range []struct {
			name   string
			before func(guest *testnet.Conn, host *net.TCPConn)
		}{
			{"idle", func(*testnet.Conn, *net.TCPConn) {}},
			{"after data", func(guest *testnet.Conn, host *net.TCPConn) {
				guest.Write([]byte("x"))
				host.Read(make([]byte, 1))
				host.Write([]byte("y"))
				guest.Read(make([]byte, 1))
			}},
			{"with unread data", func(guest *testnet.Conn, host *net.TCPConn) { guest.Write([]byte("unread")) }},
			{"after the guest's half close", func(guest *testnet.Conn, host *net.TCPConn) {
				guest.CloseWrite()
				io.ReadAll(host)
			}},
		} {
			promptly(t, "reset by the host, "+tt.name, 2*time.Second, func() time.Duration {
				guest, host := w.connect(l)
				tt.before(guest, host)
				host.SetLinger(0)
				begin := time.Now()
				host.Close()
				_, err := guest.Read(make([]byte, 1))
				took := time.Since(begin)
				if err == nil || !strings.Contains(err.Error(), "reset") {
					t.Errorf("%s: the guest read %v, want a reset", tt.name, err)
				}
				guest.Close()
				w.wantIdle()
				return took
			})
		}
	})
}

// TestB12_GuestResets is the mirror image.
func TestB12_GuestResets(t *testing.T) {
	eachKind(t, func(t *testing.T, w *world) {
		l, _ := listenTCP(t, "127.0.0.1:0")
		for _, tt := range []struct {
			name   string
			before func(guest *testnet.Conn, host *net.TCPConn)
		}{
			{"idle", func(*testnet.Conn, *net.TCPConn) {}},
			{"after data", func(guest *testnet.Conn, host *net.TCPConn) {
				guest.Write([]byte("x"))
				host.Read(make([]byte, 1))
			}},
			{"after the host's half close", func(guest *testnet.Conn, host *net.TCPConn) {
				host.CloseWrite()
				io.ReadAll(guest)
			}},
		} {
			promptly(t, "reset by the guest, "+tt.name, 2*time.Second, func() time.Duration {
				guest, host := w.connect(l)
				tt.before(guest, host)
				begin := time.Now()
				guest.Reset()
				_, err := host.Read(make([]byte, 1))
				took := time.Since(begin)
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s: the host read %v, want ECONNRESET", tt.name, err)
				}
				host.Close()
				w.wantIdle()
				return took
			})
		}
	})
}

// TestB13_Refused: within 50 ms, and as a refusal.
func TestB13_Refused(t *testing.T) {
	eachKind(t, func(t *testing.T, w *world) {
		for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, addr := listenTCP(t, host)
			l.Close()
			promptly(t, "refusal by "+host, 2*time.Second, func() time.Duration {
				begin := time.Now()
				_, err := w.tryDial(addr)
				if err == nil || !strings.Contains(err.Error(), "refused") {
					t.Errorf("%s: dial said %v, want a refusal", host, err)
				}
				return time.Since(begin)
			})
		}
		w.wantIdle()
	})
}

// TestB40_LoopbackDisabled: the guest's sockets see an unreachable network.
func TestB40_LoopbackDisabled(t *testing.T) {
	w := newWorld(t, kinds[0], setup{rules: policy.Rules{DisableHostLoopback: true}})
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, addr := listenTCP(t, host)
		_, err := w.tryDial(addr)
		if err == nil || !strings.Contains(err.Error(), "unreachable") {
			t.Errorf("%s: dial said %v, want unreachable", host, err)
		}
		l.SetDeadline(time.Now().Add(20 * time.Millisecond))
		if c, err := l.Accept(); err == nil {
			c.Close()
			t.Errorf("%s was reached", host)
		}
	}
}

// TestB14_SilentHostsDelayNobody: more than 1000 SYNs to a silent listener, and
// a good connection is made within 50 ms.
func TestB14_SilentHostsDelayNobody(t *testing.T) {
	eachKind(t, func(t *testing.T, w *world) {
		good, to := listenTCP(t, "127.0.0.1:0")
		echo(t, good)
		w.dial(to).Close() // knows the gateway's link-layer address now
		silent := w.outside(silentListener(t))
		scanner := w.Plan.Guest.Next()
		const scan = 1500
		for i := range uint16(scan) {
			if err := w.Port.Write(testnet.SYN(netip.AddrPortFrom(scanner, 1000+i), silent, 1)); err != nil {
				t.Fatal(err)
			}
		}
		promptly(t, "a connection beside many silent ones", 2*time.Second, func() time.Duration {
			begin := time.Now()
			c := w.dial(to)
			defer c.Close()
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			return time.Since(begin)
		})
		if c, _ := w.counts(); c.Dials < scan {
			t.Errorf("%d dials under way, want all %d", c.Dials, scan)
		}
	})
}

// TestB16_ManyAtOnce: a thousand connections, all of which work, and nothing
// left after them.
func TestB16_ManyAtOnce(t *testing.T) {
	const n = 1000
	eachKind(t, func(t *testing.T, w *world) {
		l, to := listenTCP(t, "127.0.0.1:0")
		echo(t, l)
		w.dial(to).Close()
		w.wantIdle()
		before := testnet.Descriptors(t)
		var opened, ended sync.WaitGroup
		opened.Add(n)
		for i := range n {
			ended.Add(1)
			go func() {
				defer ended.Done()
				c, err := w.tryDial(to)
				opened.Done()
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				defer c.Close()
				opened.Wait() // all at once
				c.SetDeadline(time.Now().Add(patience))
				want := []byte{byte(i), byte(i >> 8), 3}
				got := make([]byte, 3)
				if _, err := c.Write(want); err != nil {
					t.Errorf("connection %d: write: %v", i, err)
				} else if _, err := io.ReadFull(c, got); err != nil || string(got) != string(want) {
					t.Errorf("connection %d: % x came back as % x, %v", i, want, got, err)
				}
			}()
		}
		ended.Wait()
		w.wantIdle()
		if !testnet.Within(patience, func() bool { return testnet.Descriptors(t) <= before }) {
			t.Errorf("%d descriptors, %d before", testnet.Descriptors(t), before)
		}
	})
}

// TestB16_ShortOnesInARow: connections one after the other leave nothing either.
func TestB16_ShortOnesInARow(t *testing.T) {
	eachKind(t, func(t *testing.T, w *world) {
		l, addr := listenTCP(t, "127.0.0.1:0")
		echo(t, l)
		for i := range 300 {
			c := w.dial(addr)
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			c.Close()
		}
		w.wantIdle()
	})
}

// TestB17_SlowReaders: when nobody reads, the writer stops after a bounded
// number of bytes; later all of them arrive.
func TestB17_SlowReaders(t *testing.T) {
	// What one connection may hold: the kernel's buffers of the host's sockets
	// (tcp_wmem and tcp_rmem end at 4 and 6 MB by default, some hosts have
	// more), those of the stack and of the guest's own.
	const bound = 64 << 20
	eachKind(t, func(t *testing.T, w *world) {
		l, _ := listenTCP(t, "127.0.0.1:0")
		for _, direction := range []string{"in", "out"} {
			guest, host := w.connect(l)
			guest.SetReceiveBuffer(64 << 10)
			host.SetReadBuffer(64 << 10)
			var from, to net.Conn = host, guest
			if direction == "out" {
				from, to = guest, host
			}
			sent := 0
			p := new(pattern)
			chunk := make([]byte, 256<<10)
			for sent < 2*bound {
				p.Read(chunk)
				from.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				n, err := from.Write(chunk)
				sent += n
				if err != nil {
					break
				}
			}
			if sent >= bound {
				t.Errorf("%s: %d bytes went to a reader that reads none", direction, sent)
			}
			if c, _ := w.counts(); c.TCP != 1 {
				t.Errorf("%s: %+v while the reader is slow", direction, c)
			}
			from.SetDeadline(time.Now().Add(patience))
			to.SetDeadline(time.Now().Add(patience))
			closeWrite(from)
			if n, err := io.Copy(new(pattern), struct{ io.Reader }{to}); err != nil || n != int64(sent) {
				t.Errorf("%s: %d bytes sent, %d arrived, %v", direction, sent, n, err)
			}
			guest.Close()
			host.Close()
			w.wantIdle()
		}
	})
}

func closeWrite(c net.Conn) {
	c.(interface{ CloseWrite() error }).CloseWrite()
}

// Several streams fill the device's queue, which loses frames when it is full,
// as a TAP's does; each stream stays whole.
func TestStreamsShareTheDevice(t *testing.T) {
	const streams, size = 8, 1 << 20
	eachKind(t, func(t *testing.T, w *world) {
		l, addr := listenTCP(t, "127.0.0.1:0")
		echo(t, l)
		var wg sync.WaitGroup
		for i := range streams {
			c := w.dial(addr)
			wg.Add(2)
			go func() {
				defer wg.Done()
				if _, err := io.CopyN(struct{ io.Writer }{c}, new(pattern), size); err != nil {
					t.Errorf("stream %d: write: %v", i, err)
				}
				c.CloseWrite()
			}()
			go func() {
				defer wg.Done()
				defer c.Close()
				if n, err := io.Copy(new(pattern), struct{ io.Reader }{c}); err != nil || n != size {
					t.Errorf("stream %d: %d bytes came back, %v", i, n, err)
				}
			}()
		}
		wg.Wait()
		w.wantIdle()
	})
}
