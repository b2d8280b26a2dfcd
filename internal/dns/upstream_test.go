package dns

import (
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

func writeConf(t *testing.T, path string, servers ...string) {
	t.Helper()
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, cfg Config, servers ...string) *Resolver {
	t.Helper()
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
		writeConf(t, cfg.ResolvConf, servers...)
	}
	r := New(cfg)
	t.Cleanup(func() { r.Close() })
	return r
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
func raw(t *testing.T, r *Resolver, q []byte) []byte {
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

func ask(t *testing.T, r *Resolver, m *mdns.Msg) *mdns.Msg {
	t.Helper()
	a := unpack(t, raw(t, r, pack(t, m)))
	if a.Id != m.Id {
		t.Fatalf("answer has id %d, want %d", a.Id, m.Id)
	}
	return a
}

// wantA asks for an address and compares it.
func wantA(t *testing.T, r *Resolver, want string) {
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

func dial(t *testing.T, r *Resolver) client {
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
