package stack_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing/addressingtest"
	"epiphyte/internal/shard"
	"epiphyte/internal/testnet"
	"epiphyte/stack"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of these tests wait for TCP's timers, not for a processor. Fuzzing does
	// not, and would start so many processes.
	if flag.Lookup("test.fuzz").Value.String() == "" {
		if err := flag.Set("test.parallel", "16"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of these tests. What takes so long has failed; over
// lossy links, with the race detector on a busy machine, a megabyte took 12 s.
const patience = 40 * time.Second

// eventually waits for something that no event tells of.
func eventually(t testing.TB, what func() string) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for what() != "" {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %v: %s", patience, what())
		}
	}
}

// host is the outside world: it accepts what the guest asks for and joins each
// connection to a socket pair, at whose other end serve runs.
type host struct {
	t     testing.TB
	shard *shard.Shard
	stack *stack.Stack

	// decide takes a SYN instead of accepting it, if it is not nil.
	decide func(*stack.SYN)
	// serve is the server of a connection. It owns and closes the socket.
	serve     func(*net.UnixConn, *flow)
	keepalive bool

	vectors [64]unix.Iovec
	flows   map[*flow]bool // the shard's thread
	claimed claimed        // the shard's thread
	servers sync.WaitGroup
	failed  atomic.Int64 // handshakes that came to nothing
}

type hostConfig struct {
	device *testnet.Device
	mtu    int
	host   *host
}

// newHost starts a stack with a shard of its own. It ends with the test, and
// must leave nothing behind.
func newHost(t testing.TB, cfg hostConfig) *host {
	t.Helper()
	h := cfg.host
	h.t, h.flows, h.claimed = t, make(map[*flow]bool), make(claimed)
	var err error
	if h.shard, err = shard.New(shard.Config{}); err != nil {
		t.Fatal(err)
	}
	h.stack, err = stack.New(stack.Config{
		Device: cfg.device, Shard: h.shard, Plan: addressingtest.New(t), Handler: h, MTU: cfg.mtu,
		Claims: h.claimed, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- h.shard.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
		for fl := range h.flows {
			fl.end()
		}
		h.servers.Wait()
		if err := h.stack.Close(); err != nil {
			t.Error(err)
		}
		if err := h.shard.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// do runs f on the shard's thread and waits for it.
func (h *host) do(f func()) {
	h.t.Helper()
	done := make(chan struct{})
	h.shard.Post(shard.TaskFunc(func() { defer close(done); f() }))
	select {
	case <-done:
	case <-time.After(patience):
		h.t.Fatal("the shard hangs")
	}
}

// idle waits until no trace of a connection is left on either side, but for endpoints of
// the guest in certain states.
func (h *host) idle(g *testnet.Guest, but ...string) {
	h.t.Helper()
	eventually(h.t, func() string {
		var conns, flows, endpoints, claims int
		h.do(func() {
			conns, flows, endpoints, claims = h.stack.Conns(), len(h.flows), h.stack.Endpoints(), len(h.claimed)
		})
		var states []string
		if g != nil {
			states = slices.DeleteFunc(g.States(), func(s string) bool { return slices.Contains(but, s) })
		}
		if conns+flows+endpoints+len(states)+claims == 0 {
			return ""
		}
		return fmt.Sprintf("left over: %d connections, %d flows, %d endpoints, of the guest %v, %d claims", conns, flows, endpoints, states, claims)
	})
}

// claimed are the flows that the stack has claimed and not released.
type claimed map[[2]netip.AddrPort]int

func (c claimed) Claim(proto uint8, guest, outside netip.AddrPort) {
	if proto == stack.ProtoTCP {
		c[[2]netip.AddrPort{guest, outside}]++
	}
}

func (c claimed) Release(_ uint8, guest, outside netip.AddrPort) {
	key := [2]netip.AddrPort{guest, outside}
	if c[key]--; c[key] == 0 {
		delete(c, key)
	}
}

func (h *host) UDP(*stack.Packet)  {}
func (h *host) ICMP(*stack.Packet) {}
func (h *host) Flush()             {}

func (h *host) SYN(syn *stack.SYN) {
	if h.decide != nil {
		h.decide(syn)
		return
	}
	h.accept(syn)
}

func (h *host) accept(syn *stack.SYN) {
	h.stack.Accept(syn, func(c *stack.Conn, errno unix.Errno) {
		if c == nil {
			if errno == 0 {
				h.t.Error("a handshake failed without a reason")
			}
			h.failed.Add(1)
			return
		}
		h.start(c)
	})
}

// flow joins one connection to one socket.
type flow struct {
	h    *host
	conn *stack.Conn
	fd   int
	w    *shard.Watch

	guestReadable, guestWritable, hostReadable, hostWritable bool
	guestDone, hostDone, queued                              bool

	reset atomic.Bool   // the guest's end was reset
	gone  chan struct{} // closed when the stack has let go of the connection
}

func (h *host) start(c *stack.Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		h.t.Error(err)
		c.Abort()
		return
	}
	f := os.NewFile(uintptr(fds[1]), "server")
	server, err := net.FileConn(f)
	f.Close()
	if err != nil {
		h.t.Error(err)
	}
	fl := &flow{
		h: h, conn: c, fd: fds[0], gone: make(chan struct{}),
		guestReadable: true, guestWritable: true, hostReadable: true, hostWritable: true,
	}
	h.flows[fl] = true
	if fl.w, err = h.shard.Watch(fl.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET, fl); err != nil {
		h.t.Error(err)
	}
	if h.keepalive {
		c.SetKeepalive(300*time.Millisecond, 200*time.Millisecond)
	}
	c.SetNotify(fl.guestReady)
	h.servers.Go(func() { h.serve(server.(*net.UnixConn), fl) })
	fl.pump()
}

// abort resets the guest's end, as a host that reset its own would have it.
func (fl *flow) abort() {
	fl.h.do(func() {
		fl.conn.Abort()
		fl.end()
	})
}

func (fl *flow) Ready(uint32) {
	fl.hostReadable, fl.hostWritable = true, true
	fl.pump()
}

func (fl *flow) guestReady(r stack.Readiness) {
	if r&stack.Gone != 0 {
		// A guest that resets after its own FIN leaves gVisor's endpoint merely
		// closed; that our FIN is missing tells.
		fl.reset.Store(fl.conn.Failed() || !fl.hostDone || fl.reset.Load())
		select {
		case <-fl.gone:
			fl.h.t.Error("Gone came twice")
		default:
			close(fl.gone)
		}
		fl.end()
		delete(fl.h.flows, fl)
		return
	}
	fl.guestReadable = fl.guestReadable || r&stack.Readable != 0
	fl.guestWritable = fl.guestWritable || r&stack.Writable != 0
	fl.pump()
}

func (fl *flow) Run() {
	fl.queued = false
	fl.pump()
}

func (fl *flow) pump() {
	if fl.fd >= 0 && fl.guestReadable && fl.hostWritable && !fl.guestDone {
		fl.pumpOut()
	}
	if fl.fd >= 0 && fl.hostReadable && fl.guestWritable && !fl.hostDone {
		fl.pumpIn()
	}
	switch {
	case fl.fd < 0:
	case fl.guestDone && fl.hostDone:
		fl.end()
	case !fl.queued && (fl.guestReadable && fl.hostWritable && !fl.guestDone || fl.hostReadable && fl.guestWritable && !fl.hostDone):
		fl.queued = true
		fl.h.shard.Again(fl)
	}
}

func (fl *flow) pumpOut() {
	iov := fl.h.vectors[:]
	n, size, errno := fl.conn.Peek(iov)
	switch {
	case errno == unix.EAGAIN:
		fl.guestReadable = false
		return
	case errno != 0:
		fl.reset.Store(true)
		fl.end()
		return
	case size == 0:
		fl.guestDone = true
		unix.Shutdown(fl.fd, unix.SHUT_WR)
		return
	}
	written, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(fl.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(n))
	switch {
	case errno == unix.EAGAIN:
		fl.hostWritable = false
	case errno != 0: // the server is gone
		fl.conn.Abort()
		fl.end()
	default:
		fl.conn.Discard(int(written))
	}
}

func (fl *flow) pumpIn() {
	waiting, err := unix.IoctlGetInt(fl.fd, unix.SIOCINQ)
	if err != nil {
		fl.h.t.Error(err)
	}
	if waiting == 0 {
		var b [1]byte
		n, _, err := unix.Recvfrom(fl.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN:
			fl.hostReadable = false
		case err != nil:
			fl.conn.Abort()
			fl.end()
		case n == 0:
			fl.hostDone = true
			fl.conn.CloseWrite()
		}
		return
	}
	switch _, errno := fl.conn.WriteFrom(fl.fd, min(waiting, stack.MaxWrite)); errno {
	case 0:
	case unix.EAGAIN:
		fl.guestWritable = false
	default:
		fl.reset.Store(true)
		fl.end()
	}
}

// end closes both ends; Gone is still to come.
func (fl *flow) end() {
	if fl.fd >= 0 {
		fl.w.Forget()
		unix.Close(fl.fd)
		fl.fd = -1
		fl.conn.Close()
	}
}

// outside is where the guest's connections go.
func outside(v6 bool) netip.AddrPort {
	if v6 {
		return netip.MustParseAddrPort("[2001:db8::7]:7")
	}
	return netip.MustParseAddrPort("198.51.100.7:7")
}
