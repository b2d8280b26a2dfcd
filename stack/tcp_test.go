package stack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

// link is one kind of TAP that the suite runs over.
type link struct {
	name    string
	mtu     int
	offload bool
	v6      bool
	im      testnet.Impairment
}

func (l link) lossy() bool { return l.im != testnet.Impairment{} }

func links() []link {
	lossy := testnet.Impairment{Seed: 1, Loss: 0.02, Duplicate: 0.02, Reorder: 0.03}
	return []link{
		{name: "offload", mtu: 65520, offload: true},
		{name: "plain frames, IPv6", mtu: 1500, v6: true},
		{name: "lossy", mtu: 1500, im: lossy},
		{name: "lossy offload, IPv6", mtu: 1500, offload: true, v6: true, im: lossy},
	}
}

// pair is a guest and the host on the two sides of one stack.
type pair struct {
	*host
	guest *testnet.Guest
	link  link
	to    netip.AddrPort
}

// newPair makes both; h holds the host's behaviour.
func newPair(t *testing.T, l link, h *host) pair {
	t.Helper()
	dev := testnet.NewDevice(t, testnet.DeviceConfig{Offload: l.offload, Impairment: l.im})
	h.keepalive = true // a lost RST must not leave a flow for ever
	p := pair{link: l, to: outside(l.v6)}
	// The guest comes first so that it is closed last.
	p.guest = testnet.NewGuest(t, dev, addressingtest.New(t), l.mtu)
	p.host = newHost(t, hostConfig{device: dev, mtu: l.mtu, host: h})
	return p
}

func (p pair) dial(t testing.TB, port uint16) *testnet.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := p.guest.DialTCP(ctx, port, p.to)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// pattern is n bytes that differ wherever two packets might be confused.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(n), byte(n >> 8), byte(n >> 16)}).Read(b)
	return b
}

func echo(c *net.UnixConn, _ *flow) {
	defer c.Close()
	io.Copy(onlyWriter{c}, onlyReader{c})
	c.CloseWrite()
}

// onlyReader and onlyWriter keep io.Copy from the sockets' own shortcuts,
// splice among them.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// exchange sends and expects the same back, both at once. The guest ends its direction when
// all is sent.
func exchange(c *testnet.Conn, data []byte) error {
	sent := make(chan error, 1)
	go func() { sent <- errors.Join(sendPieces(c, data), c.CloseWrite()) }()
	return errors.Join(wantAll(c, data), <-sent)
}

// exchangeOpen is exchange, but the guest ends its direction when all is back.
func exchangeOpen(c *testnet.Conn, data []byte) error {
	sent, back := make(chan error, 1), make([]byte, len(data))
	go func() { sent <- sendPieces(c, data) }()
	_, err := io.ReadFull(c, back)
	if err == nil && !bytes.Equal(back, data) {
		err = fmt.Errorf("%d bytes came, not the same as those sent", len(back))
	}
	if err := errors.Join(err, <-sent, c.CloseWrite()); err != nil {
		return err
	}
	return wantAll(c, nil)
}

func sendPieces(c *testnet.Conn, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), 4096+len(data)%60000)
		if _, err := c.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// TestTCP is one suite, run over every link.
func TestTCP(t *testing.T) {
	cases := []struct {
		name string
		run  func(*testing.T, link)
	}{
		{"B10_Echo", testEcho},
		{"B11_HalfClose", testHalfClose},
		{"ClosingOrders", testClosingOrders},
		{"B12_Resets", testResets},
		{"B13_Refusals", testRefusals},
		{"HandshakeAbandoned", testHandshakeAbandoned},
		{"PortReuse", testPortReuse},
		{"B17_SlowReaders", testSlowReaders},
		{"B31_Dial", testDialEcho},
		{"B34_DialRefused", testDialRefused},
		{"DialAborted", testDialAborted},
		{"B16_ManyConnections", testMany},
	}
	for _, l := range links() {
		for _, c := range cases {
			t.Run(c.name+"/"+l.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, l)
			})
		}
	}
}

func testEcho(t *testing.T, l link) {
	p := newPair(t, l, &host{serve: echo})
	sizes := []int{1, 2, 100, 1460, 1461, 65535, 65536, 1 << 20}
	if !l.lossy() {
		sizes = append(sizes, 8<<20)
	}
	for _, size := range sizes {
		c, with := p.dial(t, 0), exchange
		if l.lossy() && size == 1<<20 {
			// gVisor, which is the guest here, sends no SACK once it has ended its direction
			// (sendRaw in connect.go). Each loss then costs the host a retransmission timeout,
			// which is seconds for a connection whose handshake met a loss.
			with = exchangeOpen
		}
		if err := with(c, pattern(size, 1)); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		c.Close()
	}
	p.idle(p.guest)
}

// One side ends first; the other hears of it and can still send.
func testHalfClose(t *testing.T, l link) {
	early, late := pattern(1_000_000, 2), pattern(300_000, 3)
	first := func(c net.Conn) error {
		if _, err := c.Write(early); err != nil {
			return err
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			return err
		}
		return wantAll(c, late)
	}
	second := func(c net.Conn) error {
		if err := wantAll(c, early); err != nil {
			return err
		}
		_, err := c.Write(late)
		return err
	}
	for who, sides := range map[string][2]func(net.Conn) error{"guest": {first, second}, "host": {second, first}} {
		p := newPair(t, l, &host{serve: func(c *net.UnixConn, _ *flow) {
			defer c.Close()
			if err := sides[1](c); err != nil {
				t.Errorf("the %s ends first: the server: %v", who, err)
			}
		}})
		c := p.dial(t, 0)
		if err := sides[0](c); err != nil {
			t.Errorf("the %s ends first: the guest: %v", who, err)
		}
		c.Close()
		p.idle(p.guest)
	}
}

// wantAll reads to the end and wants just these bytes.
func wantAll(c net.Conn, want []byte) error {
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%d bytes came, not the same as the %d sent", len(got), len(want))
	}
	return err
}

// The last bytes before each kind of close arrive, and nothing is left.
func testClosingOrders(t *testing.T, l link) {
	var stuck []string
	if l.lossy() {
		// gVisor, which is the guest here, stays in CLOSING if our FIN overtakes what was
		// sent before it, and our acknowledgement of its own FIN comes in between
		// (consumeSegment in rcv.go looks at that of the FIN, which is older).
		stuck = []string{"CLOSING"}
	}
	orders := []string{"guest first", "host first", "both at once"}
	for _, order := range orders {
		closing := make(chan struct{})
		p := newPair(t, l, &host{serve: func(c *net.UnixConn, _ *flow) {
			defer c.Close()
			if _, err := c.Write([]byte("from the host")); err != nil {
				t.Error(err)
			}
			switch order {
			case "both at once":
				<-closing
				c.CloseWrite()
			case "host first":
				c.CloseWrite()
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != "from the guest" {
				t.Errorf("%s: the server got %q, %v", order, got, err)
			}
		}})
		for range 5 {
			c := p.dial(t, 0)
			b := make([]byte, len("from the host"))
			if _, err := io.ReadFull(c, b); err != nil {
				t.Fatalf("%s: %v", order, err)
			}
			if order == "host first" {
				if n, err := c.Read(b); err != io.EOF {
					t.Errorf("%s: read %d bytes, %v, want the end", order, n, err)
				}
			}
			if _, err := c.Write([]byte("from the guest")); err != nil {
				t.Errorf("%s: %v", order, err)
			}
			if order == "both at once" {
				select {
				case closing <- struct{}{}:
				case <-time.After(patience):
					t.Fatal("no server")
				}
			}
			if err := c.CloseWrite(); err != nil {
				t.Errorf("%s: %v", order, err)
			}
			if order != "host first" {
				if n, err := c.Read(b); err != io.EOF {
					t.Errorf("%s: read %d bytes, %v, want the end", order, n, err)
				}
			}
			c.Close()
		}
		p.idle(p.guest, stuck...)
	}
}

// Each side resets in each state in which it can; the other hears of it.
func testResets(t *testing.T, l link) {
	type stage struct {
		name                 string
		guestFIN, hostFIN    bool
		byGuest, unreadBytes bool
	}
	var stages []stage
	for _, byGuest := range []bool{true, false} {
		who := "host"
		if byGuest {
			who = "guest"
		}
		stages = append(stages,
			stage{who + " resets when established", false, false, byGuest, false},
			stage{who + " resets with bytes unread", false, false, byGuest, true},
			stage{who + " resets after the guest's FIN", true, false, byGuest, false},
			stage{who + " resets after the host's FIN", false, true, byGuest, false})
	}
	started := make(chan *flow, 1)
	release := make(chan bool)
	p := newPair(t, l, &host{serve: func(c *net.UnixConn, fl *flow) {
		defer c.Close()
		c.Write([]byte("hello"))
		started <- fl
		if <-release {
			c.CloseWrite()
		}
		<-release
	}})
	for _, st := range stages {
		c := p.dial(t, 0)
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		fl := <-started
		release <- st.hostFIN
		if st.hostFIN {
			if _, err := c.Read(b); err != io.EOF {
				t.Errorf("%s: read %v, want the end", st.name, err)
			}
		}
		if st.unreadBytes {
			if _, err := c.Write(pattern(500_000, 6)); err != nil {
				t.Errorf("%s: %v", st.name, err)
			}
		}
		if st.guestFIN {
			if err := c.CloseWrite(); err != nil {
				t.Errorf("%s: %v", st.name, err)
			}
		}
		if st.byGuest {
			c.Reset()
		} else {
			fl.abort()
		}
		select {
		case <-fl.gone:
		case <-time.After(patience):
			t.Fatalf("%s: the connection stays in the table", st.name)
		}
		if st.byGuest {
			if !fl.reset.Load() {
				t.Errorf("%s: it looked like an orderly end", st.name)
			}
		} else if !st.hostFIN { // what has read the end reads it again
			if _, err := c.Read(b); err == nil || err == io.EOF || strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s: the guest read %v, want a reset", st.name, err)
			}
		}
		c.Close()
		release <- true
	}
	p.idle(p.guest)
}

// What the host refuses, the guest hears at once, by its reason.
func testRefusals(t *testing.T, l link) {
	for _, refusal := range []struct {
		why  unix.Errno
		want string
	}{
		{unix.ECONNREFUSED, "connection was refused"},
		{unix.EHOSTUNREACH, "host"},
		{unix.ENETUNREACH, "network"},
	} {
		if l.v6 && refusal.why == unix.EHOSTUNREACH {
			continue // the guest's gVisor makes nothing of ICMPv6's address unreachable
		}
		var p pair
		p = newPair(t, l, &host{decide: func(syn *stack.SYN) {
			if refusal.why == unix.ECONNREFUSED {
				p.stack.SendReset(syn)
				return
			}
			q := syn.Quote()
			e, _ := stack.ICMPErrorFor(refusal.why, l.v6)
			p.stack.SendICMPError(netip.Addr{}, e, &q)
		}})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c, err := p.guest.DialTCP(ctx, 0, p.to)
		if err == nil {
			c.Close()
			t.Errorf("a refused connection (%v) was made", refusal.want)
		} else if !strings.Contains(err.Error(), refusal.want) {
			t.Errorf("got %q, want one about %q", err, refusal.want)
		}
		cancel()
		p.idle(p.guest)
	}
}

// The guest gives up its SYN; the SYN-ACK that comes after meets a RST.
func testHandshakeAbandoned(t *testing.T, l link) {
	syns := make(chan *stack.SYN, 100)
	p := newPair(t, l, &host{decide: func(syn *stack.SYN) { syns <- syn.Clone() }, serve: echo})
	for range 5 {
		ctx, cancel := context.WithCancel(context.Background())
		dialled := make(chan error, 1)
		go func() {
			c, err := p.guest.DialTCP(ctx, 0, p.to)
			if err == nil {
				c.Close()
			}
			dialled <- err
		}()
		syn := <-syns
		cancel()
		if err := <-dialled; err == nil {
			t.Error("connected before anybody accepted")
		}
		failed := p.failed.Load()
		p.do(func() { p.accept(syn) })
		eventually(t, func() string {
			if p.failed.Load() == failed {
				return "the handshake goes on without the guest"
			}
			return ""
		})
	}
	p.idle(p.guest)
}

// The guest opens a connection from the port of one that the stack still
// remembers in TIME-WAIT.
func testPortReuse(t *testing.T, l link) {
	p := newPair(t, l, &host{serve: func(c *net.UnixConn, _ *flow) {
		defer c.Close()
		c.CloseWrite() // first, so that TIME-WAIT is the stack's
		io.Copy(io.Discard, onlyReader{c})
	}})
	for range 5 {
		c := p.dial(t, 40000)
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("read %v, want the end", err)
		}
		c.Close()
		eventually(t, func() string {
			if n := len(p.guest.States()); n > 0 {
				return fmt.Sprintf("the guest holds %d endpoints", n)
			}
			return ""
		})
	}
	p.idle(p.guest)
}

// A side that does not read stops the other; when it reads, nothing is lost.
func testSlowReaders(t *testing.T, l link) {
	size := 12 << 20 // more than both windows and all buffers hold
	fits := l.lossy() || raceDetector
	if fits {
		size = 2 << 20
	}
	data := pattern(size, 11)
	written, read := make(chan int, 1), make(chan bool, 2)
	p := newPair(t, l, &host{serve: func(c *net.UnixConn, _ *flow) {
		defer c.Close()
		c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, _ := c.Write(data)
		written <- n
		<-read
		c.SetDeadline(time.Now().Add(2 * patience))
		c.Write(data[n:])
		// And the other way round: the guest's turn. Not after a FIN of ours:
		// gVisor sends no SACK in FIN-WAIT2, and recovers from loss slowly.
		<-read
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the server got %d bytes, %v", len(got), err)
		}
	}})
	c := p.dial(t, 0)
	if n := <-written; n == size && !fits {
		t.Errorf("all %d bytes were taken from the server with nobody reading", n)
	}
	read <- true
	got := make([]byte, size)
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the guest got %d bytes, %v", n, err)
	}
	sent := make(chan error, 1)
	stuck := make(chan struct{})
	go func() {
		c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := c.Write(data)
		close(stuck)
		if err == nil && !fits && n == size {
			t.Errorf("all %d bytes were taken from the guest with nobody reading", n)
		}
		c.SetWriteDeadline(time.Now().Add(patience))
		if _, err = c.Write(data[n:]); err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	<-stuck
	read <- true
	if err := <-sent; err != nil {
		t.Error(err)
	}
	c.Close()
	p.idle(p.guest)
}

func testMany(t *testing.T, l link) {
	p := newPair(t, l, &host{serve: echo})
	count, size, wait := 500, 2000, patience
	if l.lossy() || raceDetector {
		count = 100
	}
	if l.lossy() {
		// A connection whose handshake meets a loss waits 3 s for what is lost next, and twice as
		// long each time that it is lost again. With 0.06 lost instead of 0.02, three times in
		// a row, 48 runs took up to 43 s; one in 150 of those with 0.02 took 48.
		wait = 3 * patience
	}
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			defer cancel()
			c, err := p.guest.DialTCP(ctx, 0, p.to)
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(wait))
			if err := exchange(c, pattern(size, uint64(i))); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	p.idle(p.guest)
}

// Descriptors are not goroutines: goleak does not see them.
func TestNoDescriptorIsLeft(t *testing.T) {
	before := testnet.Descriptors(t)
	t.Run("once", func(t *testing.T) {
		p := newPair(t, links()[0], &host{serve: echo})
		for range 20 {
			c := p.dial(t, 0)
			if err := exchange(c, []byte("hello")); err != nil {
				t.Error(err)
			}
			c.Close()
		}
		p.dial(t, 0).Reset()
		p.idle(p.guest)
	})
	if after := testnet.Descriptors(t); after > before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
}
