package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"

	mdns "github.com/miekg/dns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nameserver is a real server on a loopback address, UDP and TCP on one port.
type nameserver struct {
	addr  string
	asked atomic.Int32
	tcp   atomic.Int32

	mu      sync.Mutex
	ports   map[int]int // source ports seen over UDP
	streams map[int]int // and over TCP
	handler mdns.HandlerFunc
}

// says answers every question with one A record.
func says(ip string) mdns.HandlerFunc {
	return func(w mdns.ResponseWriter, q *mdns.Msg) {
		a := new(mdns.Msg).SetReply(q)
		rr, err := mdns.NewRR(fmt.Sprintf("%s 60 IN A %s", q.Question[0].Name, ip))
		if err != nil {
			panic(err)
		}
		a.Answer = append(a.Answer, rr)
		w.WriteMsg(a)
	}
}

func rcode(code int) mdns.HandlerFunc {
	return func(w mdns.ResponseWriter, q *mdns.Msg) {
		w.WriteMsg(new(mdns.Msg).SetRcode(q, code))
	}
}

func silence(mdns.ResponseWriter, *mdns.Msg) {}

// freePort gives a port that is free, over UDP and TCP, on every address given.
func freePort(t *testing.T, addrs ...string) uint16 {
	t.Helper()
next:
	for range 50 {
		c, err := net.ListenPacket("udp", net.JoinHostPort(addrs[0], "0"))
		if err != nil {
			t.Skipf("listen on %s: %v", addrs[0], err)
		}
		port := c.LocalAddr().(*net.UDPAddr).Port
		c.Close()
		for _, a := range addrs {
			at := net.JoinHostPort(a, fmt.Sprint(port))
			u, err := net.ListenPacket("udp", at)
			if err != nil {
				continue next
			}
			u.Close()
			l, err := net.Listen("tcp", at)
			if err != nil {
				continue next
			}
			l.Close()
		}
		return uint16(port)
	}
	t.Fatal("no port is free")
	return 0
}

func serve(t *testing.T, addr string, port uint16, h mdns.HandlerFunc) *nameserver {
	t.Helper()
	n := &nameserver{addr: addr, ports: make(map[int]int), streams: make(map[int]int), handler: h}
	at := net.JoinHostPort(addr, fmt.Sprint(port))
	pc, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		n.asked.Add(1)
		n.mu.Lock()
		h := n.handler
		switch a := w.RemoteAddr().(type) {
		case *net.UDPAddr:
			n.ports[a.Port]++
		case *net.TCPAddr:
			n.tcp.Add(1)
			n.streams[a.Port]++
		}
		n.mu.Unlock()
		h(w, q)
	})
	udpUp, tcpUp := make(chan struct{}), make(chan struct{})
	udp := &mdns.Server{PacketConn: pc, Handler: handler, UDPSize: 65535, NotifyStartedFunc: func() { close(udpUp) }}
	tcp := &mdns.Server{Listener: l, Handler: handler, NotifyStartedFunc: func() { close(tcpUp) }}
	var done sync.WaitGroup
	for _, s := range []*mdns.Server{udp, tcp} {
		done.Go(func() { s.ActivateAndServe() })
	}
	<-udpUp
	<-tcpUp
	t.Cleanup(func() {
		udp.Shutdown()
		tcp.Shutdown()
		done.Wait()
	})
	return n
}

func (n *nameserver) set(h mdns.HandlerFunc) {
	n.mu.Lock()
	n.handler = h
	n.mu.Unlock()
}

// deadServer accepts datagrams and connections, and never says anything.
func deadServer(t *testing.T, addr string, port uint16) {
	t.Helper()
	at := net.JoinHostPort(addr, fmt.Sprint(port))
	pc, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close(); l.Close() })
}

func writeConf(t testing.TB, path string, servers ...string) {
	t.Helper()
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rig is a resolver on a shard that serves, whose clock a test may advance.
type rig struct {
	*Resolver
	clock   *clock
	stop    context.CancelFunc
	stopped chan struct{} // closed when the shard has stopped
}

// clock is a clock that runs by itself and can be put forward.
type clock struct {
	start time.Time
	plus  atomic.Int64
}

func (c *clock) Now() time.Duration { return time.Since(c.start) + time.Duration(c.plus.Load()) }

func start(t testing.TB, cfg Config, servers ...string) *rig {
	t.Helper()
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
		writeConf(t, cfg.ResolvConf, servers...)
	}
	r := &rig{clock: &clock{start: time.Now()}, stopped: make(chan struct{})}
	s, err := shard.New(shard.Config{Clock: r.clock})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Shard = s
	r.Resolver = New(cfg)
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() {
		defer close(r.stopped)
		if err := s.Serve(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		r.Close()
		s.Close()
	})
	return r
}

// do runs f on the shard's thread.
func (r *rig) do(f func()) {
	done := make(chan struct{})
	r.shard.Post(shard.TaskFunc(func() { defer close(done); f() }))
	select {
	case <-done:
	case <-r.stopped:
		f()
	}
}

// advance puts the clock forward.
func (r *rig) advance(d time.Duration) {
	r.clock.plus.Add(int64(d))
	r.do(func() {}) // so that it takes notice
}

// Submit is the resolver's, with answers that the callee may keep.
func (r *rig) Submit(q []byte, reply func([]byte)) (ok bool) {
	r.do(func() {
		ok = r.Resolver.Submit(q, guestAt(), dnsAt(), func(from, to netip.AddrPort, m []byte) {
			if from != guestAt() || to != dnsAt() {
				panic(fmt.Sprintf("an answer between %v and %v", from, to))
			}
			reply(bytes.Clone(m))
		})
	})
	return ok
}

func guestAt() netip.AddrPort { return netip.MustParseAddrPort("10.0.2.100:4000") }
func dnsAt() netip.AddrPort   { return netip.MustParseAddrPort("10.0.2.3:53") }

func (r *rig) Close() {
	r.stop()
	<-r.stopped
	r.Resolver.Close()
}

func query(name string, qtype uint16) *mdns.Msg {
	return new(mdns.Msg).SetQuestion(name, qtype)
}

func pack(t *testing.T, m *mdns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpack(t *testing.T, b []byte) *mdns.Msg {
	t.Helper()
	m := new(mdns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("unpack %x: %v", b, err)
	}
	return m
}

// raw sends a query and waits for the answer.
func raw(t *testing.T, r *rig, q []byte) []byte {
	t.Helper()
	got := make(chan []byte, 1)
	if !r.Submit(q, func(m []byte) { got <- m }) {
		t.Fatal("query refused")
	}
	select {
	case m := <-got:
		return m
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
		return nil
	}
}

func ask(t *testing.T, r *rig, m *mdns.Msg) *mdns.Msg {
	t.Helper()
	a := unpack(t, raw(t, r, pack(t, m)))
	if a.Id != m.Id {
		t.Fatalf("answer has id %d, want %d", a.Id, m.Id)
	}
	return a
}

// wantA asks for an address and compares it.
func wantA(t *testing.T, r *rig, want string) {
	t.Helper()
	a := ask(t, r, query("name.example.", mdns.TypeA))
	checkA(t, a, want)
}

func checkA(t *testing.T, a *mdns.Msg, want string) {
	t.Helper()
	if a.Rcode != mdns.RcodeSuccess || len(a.Answer) != 1 {
		t.Fatalf("got %v, want %s", a, want)
	}
	if got := a.Answer[0].(*mdns.A).A.String(); got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

// client is a stream as the data path sees it.
type client struct {
	t *testing.T
	*os.File
}

func dial(t *testing.T, r *rig) client {
	t.Helper()
	fd, err := r.Stream()
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "client")
	t.Cleanup(func() { f.Close() })
	f.SetDeadline(time.Now().Add(10 * time.Second))
	return client{t, f}
}

func (c client) send(messages ...*mdns.Msg) {
	c.t.Helper()
	var out []byte
	for _, m := range messages {
		b := pack(c.t, m)
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(b))), b...)
	}
	if _, err := c.Write(out); err != nil {
		c.t.Fatal(err)
	}
}

func (c client) receive() *mdns.Msg {
	c.t.Helper()
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		c.t.Fatalf("read answer: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatal(err)
	}
	return unpack(c.t, b)
}

func (c client) shutdown() {
	c.t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) })
	if err != nil {
		c.t.Fatal(err)
	}
}

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(5 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

func addrs(ss ...string) []netip.Addr {
	var list []netip.Addr
	for _, s := range ss {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}
