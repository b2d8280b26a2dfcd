package stack_test

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/stack"
)

// dialled are the parties of connections towards the guest.
type dialled struct {
	pair
	from, to netip.AddrPort
	results  chan unix.Errno
}

func newDialled(t *testing.T, l link, client func(*net.UnixConn, *flow)) dialled {
	d := dialled{pair: newPair(t, l, &host{serve: client}), results: make(chan unix.Errno, 100)}
	d.from, d.to = netip.MustParseAddrPort("203.0.113.9:4444"), netip.AddrPortFrom(guest4.Addr(), 80)
	if l.v6 {
		d.from, d.to = netip.MustParseAddrPort("[2001:db8:1::9]:4444"), netip.AddrPortFrom(d.guest.Addr6, 80)
	}
	return d
}

// dial starts a connection; its result comes through results.
func (d dialled) dial(from netip.AddrPort) (handshake *stack.Handshake, errno unix.Errno) {
	d.do(func() {
		returned := false
		handshake, errno = d.stack.Dial(from, d.to, func(c *stack.Conn, errno unix.Errno) {
			if !returned && errno != unix.ECONNABORTED {
				d.t.Error("done was called before Dial returned")
			}
			d.results <- errno
			if c != nil {
				d.start(c)
			}
		})
		returned = true
	})
	return handshake, errno
}

func (d dialled) result() unix.Errno {
	d.t.Helper()
	select {
	case errno := <-d.results:
		return errno
	case <-time.After(patience):
		d.t.Fatal("dialling does not end")
		return 0
	}
}

// B31: the guest's server sees whom we speak for, and bytes go both ways.
func testDialEcho(t *testing.T, l link) {
	data := pattern(300_000, 12)
	var clients sync.WaitGroup
	d := newDialled(t, l, func(c *net.UnixConn, _ *flow) {
		defer clients.Done()
		defer c.Close()
		go func() {
			c.Write(data)
			c.CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
	})
	server, err := d.guest.ListenTCP(80, l.v6)
	if err != nil {
		t.Fatal(err)
	}
	listening := len(d.guest.States())
	var servers sync.WaitGroup
	seen := make(chan string, 100)
	servers.Go(func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			seen <- c.RemoteAddr().String()
			servers.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				io.Copy(onlyWriter{c}, onlyReader{c})
			})
		}
	})
	for range 3 { // the same port again, as soon as it is free
		clients.Add(1)
		if _, errno := d.dial(d.from); errno != 0 {
			t.Fatal(errno)
		}
		if errno := d.result(); errno != 0 {
			t.Fatal(errno)
		}
		if got := <-seen; got != d.from.String() {
			t.Errorf("the server saw %v, want %v", got, d.from)
		}
		d.do(func() {
			if n := d.claimed[[2]netip.AddrPort{d.to, d.from}]; n != 1 || len(d.claimed) != 1 {
				t.Errorf("claimed: %v", d.claimed)
			}
		})
		clients.Wait()
		d.idleButFor(listening)
	}
	server.Close()
	servers.Wait()
	d.idle(d.guest)
}

// idleButFor is idle while the guest keeps some endpoints of its own.
func (p pair) idleButFor(guest int) {
	p.t.Helper()
	p.idle(nil)
	eventually(p.t, func() string {
		if len(p.guest.States()) > guest {
			return "the guest holds more endpoints than it should"
		}
		return ""
	})
}

// B34: nobody listens, and the caller hears so.
func testDialRefused(t *testing.T, l link) {
	d := newDialled(t, l, func(c *net.UnixConn, _ *flow) { c.Close() })
	for range 5 {
		if _, errno := d.dial(d.from); errno != 0 {
			t.Fatal(errno)
		}
		if errno := d.result(); errno != unix.ECONNREFUSED {
			t.Errorf("dialling nobody: %v, want ECONNREFUSED", errno)
		}
		d.idle(d.guest)
	}
}

// Abort of a connection that the guest is silent about, and one twice.
func testDialAborted(t *testing.T, l link) {
	d := newDialled(t, l, func(c *net.UnixConn, _ *flow) { c.Close() })
	d.to = netip.AddrPortFrom(d.to.Addr().Next(), 80) // nobody's
	for range 5 {
		handshake, errno := d.dial(d.from)
		if errno != 0 {
			t.Fatal(errno)
		}
		if _, errno := d.dial(d.from); errno == 0 {
			t.Error("two connections have the same addresses and ports")
		}
		d.do(handshake.Abort)
		if errno := d.result(); errno != unix.ECONNABORTED {
			t.Errorf("aborted: %v, want ECONNABORTED", errno)
		}
		d.do(handshake.Abort)
		d.idle(d.guest)
	}
	if len(d.results) > 0 {
		t.Errorf("done was called again with %v", <-d.results)
	}
	// One more is left for Close to end.
	if _, errno := d.dial(d.from); errno != 0 {
		t.Fatal(errno)
	}
}
