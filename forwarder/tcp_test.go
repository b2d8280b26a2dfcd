package forwarder

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
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
			l, addr := testnet.ListenTCP(t, host)
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

// TestB11_HalfClose: one side says something and shuts its direction, the other
// still sends all that it has and then ends: all of it arrives, by a device that
// loses, doubles and delays frames, too.
func TestB11_HalfClose(t *testing.T) {
	for i, k := range kinds {
		t.Run(k.name, func(t *testing.T) { testHalfClose(t, newWorld(t, k, setup{}), 10<<20) })
		k.lossy = uint64(i + 1)
		t.Run(k.name+"/lossy", func(t *testing.T) { testHalfClose(t, newWorld(t, k, setup{}), 100<<10) })
	}
}

func testHalfClose(t *testing.T, w *world, size int64) {
	l, _ := testnet.ListenTCP(t, "127.0.0.1:0")
	for _, who := range []string{"guest", "host"} {
		guest, host := w.connect(l)
		var first, second net.Conn = guest, host
		if who == "host" {
			first, second = host, guest
		}
		if _, err := first.Write([]byte("request")); err != nil {
			t.Fatal(err)
		}
		closeWrite(first)
		if b, err := io.ReadAll(second); err != nil || string(b) != "request" {
			t.Fatalf("the %s half closes: %q arrived, %v", who, b, err)
		}
		go func() {
			io.CopyN(struct{ io.Writer }{second}, new(pattern), size)
			closeWrite(second)
		}()
		if n, err := io.Copy(new(pattern), struct{ io.Reader }{first}); err != nil || n != size {
			t.Errorf("the %s half closes: it read %d bytes, %v", who, n, err)
		}
		guest.Close()
		w.wantIdle()
	}
}

// TestB12_Resets: a side learns of the other's reset within 100 ms, idle or with
// data under way, before and after half closes.
func TestB12_Resets(t *testing.T) {
	idle := func(*testnet.Conn, *net.TCPConn) {}
	talk := func(guest *testnet.Conn, host *net.TCPConn) {
		guest.Write([]byte("x"))
		host.Read(make([]byte, 1))
		host.Write([]byte("y"))
		guest.Read(make([]byte, 1))
	}
	for _, tt := range []struct {
		name    string
		byGuest bool
		before  func(guest *testnet.Conn, host *net.TCPConn)
	}{
		{"the host resets when idle", false, idle},
		{"the host resets after data", false, talk},
		{"the host resets with data unread", false, func(guest *testnet.Conn, _ *net.TCPConn) { guest.Write([]byte("unread")) }},
		{"the host resets after the guest's half close", false, func(guest *testnet.Conn, host *net.TCPConn) {
			guest.CloseWrite()
			io.ReadAll(host)
		}},
		{"the guest resets when idle", true, idle},
		{"the guest resets after data", true, talk},
		{"the guest resets after the host's half close", true, func(guest *testnet.Conn, host *net.TCPConn) {
			host.CloseWrite()
			io.ReadAll(guest)
		}},
	} {
		eachKind(t, func(t *testing.T, w *world) {
			l, _ := testnet.ListenTCP(t, "127.0.0.1:0")
			promptly(t, tt.name, 2*time.Second, func() time.Duration {
				guest, host := w.connect(l)
				tt.before(guest, host)
				var told net.Conn = guest
				begin := time.Now()
				if tt.byGuest {
					told = host
					guest.Reset()
				} else {
					host.SetLinger(0)
					host.Close()
				}
				_, err := told.Read(make([]byte, 1))
				took := time.Since(begin)
				if err == nil || !strings.Contains(err.Error(), "reset") {
					t.Errorf("%s: the other side read %v, want a reset", tt.name, err)
				}
				told.Close()
				w.wantIdle()
				return took
			})
		})
	}
}

// TestB13_Refused: within 50 ms, and as a refusal.
func TestB13_Refused(t *testing.T) {
	eachKind(t, func(t *testing.T, w *world) {
		for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, addr := testnet.ListenTCP(t, host)
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
		l, addr := testnet.ListenTCP(t, host)
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
		good, to := testnet.ListenTCP(t, "127.0.0.1:0")
		echo(t, good)
		w.dial(to).Close() // knows the gateway's link-layer address now
		silent := w.outside(testnet.SilentListener(t))
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
		l, to := testnet.ListenTCP(t, "127.0.0.1:0")
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
		l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
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
		l, _ := testnet.ListenTCP(t, "127.0.0.1:0")
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
		l, addr := testnet.ListenTCP(t, "127.0.0.1:0")
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
