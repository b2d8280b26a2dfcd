package dns

import (
	"bytes"
	"context"
	"fmt"
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

	"epiphyte/internal/shard"
	"epiphyte/internal/testnet"

	mdns "github.com/miekg/dns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// overBoth runs a test over each transport.
func overBoth(t *testing.T, test func(t *testing.T, via transport)) {
	for _, via := range [...]transport{udp, tcp} {
		t.Run(via.String(), func(t *testing.T) { test(t, via) })
	}
}

// nameserver is a real server on a loopback address, UDP and TCP on one port.
type nameserver struct {
	asked atomic.Int32

	mu      sync.Mutex
	ports   map[int]int // source ports seen over UDP
	raw     []byte      // the last query, as it came
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

// freePort returns a port that is free, over UDP and TCP, on every address given.
func freePort(t *testing.T, addrs ...string) uint16 {
	t.Helper()
next:
	for range 50 {
		c, err := net.ListenPacket("udp", net.JoinHostPort(addrs[0], "0"))
		testnet.NeedAddress(t, err)
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

func listen(t *testing.T, addr string, port uint16) (net.PacketConn, net.Listener) {
	t.Helper()
	at := net.JoinHostPort(addr, fmt.Sprint(port))
	pc, err := net.ListenPacket("udp", at)
	must(t, err)
	l, err := net.Listen("tcp", at)
	must(t, err)
	return pc, l
}

func serve(t *testing.T, addr string, port uint16, h mdns.HandlerFunc) *nameserver {
	t.Helper()
	n := &nameserver{ports: make(map[int]int), handler: h}
	pc, l := listen(t, addr, port)
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		n.asked.Add(1)
		n.mu.Lock()
		h := n.handler
		if a, ok := w.RemoteAddr().(*net.UDPAddr); ok {
			n.ports[a.Port]++
		}
		n.mu.Unlock()
		h(w, q)
	})
	udpUp, tcpUp := make(chan struct{}), make(chan struct{})
	servers := [...]*mdns.Server{
		{PacketConn: pc, Handler: handler, UDPSize: 65535, NotifyStartedFunc: func() { close(udpUp) }},
		{Listener: l, Handler: handler, NotifyStartedFunc: func() { close(tcpUp) }},
	}
	for _, s := range servers {
		s.DecorateReader = func(r mdns.Reader) mdns.Reader { return recorder{r.(mdns.PacketConnReader), n} }
	}
	var done sync.WaitGroup
	for _, s := range servers {
		done.Go(func() { s.ActivateAndServe() })
	}
	<-udpUp
	<-tcpUp
	t.Cleanup(func() {
		for _, s := range servers {
			s.Shutdown()
		}
		done.Wait()
	})
	return n
}

func (n *nameserver) set(h mdns.HandlerFunc) {
	n.mu.Lock()
	n.handler = h
	n.mu.Unlock()
}

// recorder keeps the bytes of the last query.
type recorder struct {
	mdns.PacketConnReader
	n *nameserver
}

func (r recorder) record(m []byte) {
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	if len(m) > 0 { // not at the end of a connection
		r.n.raw = bytes.Clone(m)
	}
}

func (r recorder) ReadTCP(c net.Conn, timeout time.Duration) ([]byte, error) {
	m, err := r.PacketConnReader.ReadTCP(c, timeout)
	r.record(m)
	return m, err
}

func (r recorder) ReadUDP(c *net.UDPConn, timeout time.Duration) ([]byte, *mdns.SessionUDP, error) {
	m, s, err := r.PacketConnReader.ReadUDP(c, timeout)
	r.record(m)
	return m, s, err
}

// deadServer accepts datagrams and connections, and never says anything.
func deadServer(t *testing.T, addr string, port uint16) {
	t.Helper()
	pc, l := listen(t, addr, port)
	t.Cleanup(func() { pc.Close(); l.Close() })
}

// upstream serves with each handler, if it is not nil, at 127.0.0.1 and the
// addresses after it, and starts a resolver that asks them in this order.
func upstream(t *testing.T, cfg Config, handlers ...mdns.HandlerFunc) (*rig, []*nameserver) {
	t.Helper()
	var addrs []string
	for i := range handlers {
		addrs = append(addrs, fmt.Sprintf("127.0.0.%d", 1+i))
	}
	cfg.Port = freePort(t, addrs...)
	servers := make([]*nameserver, len(handlers))
	for i, h := range handlers {
		if h != nil {
			servers[i] = serve(t, addrs[i], cfg.Port, h)
		}
	}
	return start(t, cfg, addrs...), servers
}

func writeConf(t testing.TB, path string, servers ...string) {
	t.Helper()
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	must(t, os.WriteFile(path, []byte(b.String()), 0o644))
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
	must(t, err)
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

// submit is for the shard's thread; what it gives to reply may be kept.
func (r *rig) submit(q []byte, reply func([]byte)) bool {
	return r.Resolver.Submit(q, guestAt(), dnsAt(), func(from, to netip.AddrPort, m []byte) {
		if from != guestAt() || to != dnsAt() {
			panic(fmt.Sprintf("an answer between %v and %v", from, to))
		}
		reply(bytes.Clone(m))
	})
}

// Submit is submit for any goroutine.
func (r *rig) Submit(q []byte, reply func([]byte)) (ok bool) {
	r.do(func() { ok = r.submit(q, reply) })
	return ok
}

func (r *rig) Stream() (fd int, err error) {
	r.do(func() { fd, err = r.Resolver.Stream(guestAt()) })
	return fd, err
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

func pack(t testing.TB, m *mdns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	must(t, err)
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
func raw(t *testing.T, r *rig, via transport, q []byte) []byte {
	t.Helper()
	if via == tcp {
		c := dial(t, r)
		defer c.Close()
		_, err := c.Write(q)
		must(t, err)
		return c.receiveRaw()
	}
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

func ask(t *testing.T, r *rig, via transport, m *mdns.Msg) *mdns.Msg {
	t.Helper()
	a := unpack(t, raw(t, r, via, pack(t, m)))
	if a.Id != m.Id {
		t.Fatalf("answer has id %d, want %d", a.Id, m.Id)
	}
	return a
}

// wantA asks for an address and compares it.
func wantA(t *testing.T, r *rig, via transport, want string) {
	t.Helper()
	checkA(t, ask(t, r, via, query("name.example.", mdns.TypeA)), want)
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

// wantCode asks for an address that is refused.
func wantCode(t *testing.T, r *rig, via transport, code int) {
	t.Helper()
	if a := ask(t, r, via, query("name.example.", mdns.TypeA)); a.Rcode != code {
		t.Errorf("got %v, want %s", a, mdns.RcodeToString[code])
	}
}

// atBest runs f until it takes less than limit, which is shorter than the wait that
// it must not have: a busy machine slows one run, not all.
func atBest(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	best := time.Hour
	for range 10 {
		begin := time.Now()
		f()
		if best = min(best, time.Since(begin)); best < limit {
			return
		}
	}
	t.Errorf("took %v at best, want %v", best, limit)
}

// within fails the test if what takes longer.
func within(t *testing.T, limit time.Duration, what func()) {
	t.Helper()
	began := time.Now()
	what()
	if d := time.Since(began); d > limit {
		t.Errorf("took %v, want at most %v", d, limit)
	}
}

// client is a stream as the data path sees it, with its framing.
type client struct {
	mdns.Conn
	t *testing.T
}

func dial(t *testing.T, r *rig) *client {
	t.Helper()
	fd, err := r.Stream()
	must(t, err)
	f := os.NewFile(uintptr(fd), "client")
	conn, err := net.FileConn(f)
	f.Close()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{mdns.Conn{Conn: conn}, t}
}

func (c *client) send(messages ...*mdns.Msg) {
	c.t.Helper()
	for _, m := range messages {
		if err := c.WriteMsg(m); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *client) receiveRaw() []byte {
	c.t.Helper()
	m, err := c.ReadMsgHeader(nil)
	if err != nil {
		c.t.Fatalf("read answer: %v", err)
	}
	return m
}

func (c *client) receive() *mdns.Msg {
	c.t.Helper()
	return unpack(c.t, c.receiveRaw())
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
