package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	mdns "github.com/miekg/dns"
)

func TestB27_StreamPipelines(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	hold := make(chan struct{})
	n := serve(t, "127.0.0.1", port, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if q.Question[0].Name == "slow.example." {
			go func() {
				<-hold
				says("192.0.2.9")(w, q)
			}()
			return
		}
		says("192.0.2.1")(w, q)
	})
	c := dial(t, start(t, Config{Port: port}, "127.0.0.1"))
	// Equal ids are the client's fault, and yet both get their own answer.
	slow, quick := query("slow.example.", mdns.TypeA), query("name.example.", mdns.TypeA)
	quick.Id = slow.Id
	c.send(slow, quick)
	a := c.receive()
	checkA(t, a, "192.0.2.1")
	if a.Id != quick.Id {
		t.Errorf("id is %d, want %d", a.Id, quick.Id)
	}
	close(hold)
	checkA(t, c.receive(), "192.0.2.9")
	if got := n.tcp.Load(); got != 2 {
		t.Errorf("%d queries came over TCP, want 2", got)
	}
}

func TestB27_StreamCarriesLargeMessages(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	serve(t, "127.0.0.1", port, func(w mdns.ResponseWriter, q *mdns.Msg) {
		a := new(mdns.Msg).SetReply(q)
		for i := range 230 {
			a.Answer = append(a.Answer, &mdns.TXT{
				Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeTXT, Class: mdns.ClassINET},
				Txt: []string{fmt.Sprintf("%0250d", i)},
			})
		}
		w.WriteMsg(a)
	})
	c := dial(t, start(t, Config{Port: port}, "127.0.0.1"))
	for range 3 {
		c.send(query("big.example.", mdns.TypeTXT))
		if a := c.receive(); len(a.Answer) != 230 {
			t.Errorf("%d records, want 230", len(a.Answer))
		}
	}
}

func TestB27_StreamHonoursHalfClose(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	hold := make(chan struct{})
	serve(t, "127.0.0.1", port, func(w mdns.ResponseWriter, q *mdns.Msg) {
		<-hold
		says("192.0.2.1")(w, q)
	})
	c := dial(t, start(t, Config{Port: port}, "127.0.0.1"))
	c.send(query("name.example.", mdns.TypeA))
	c.shutdown()
	close(hold)
	checkA(t, c.receive(), "192.0.2.1")
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v after the last answer, want EOF", err)
	}
}

func TestB27_StreamFailureIsServFail(t *testing.T) {
	port := freePort(t, "127.0.0.1", "127.0.0.2")
	check := func(t *testing.T, r *rig) {
		t.Helper()
		c := dial(t, r)
		for range 2 {
			c.send(query("one.example.", mdns.TypeA), query("two.example.", mdns.TypeA))
			for range 2 {
				if a := c.receive(); a.Rcode != mdns.RcodeServerFailure || len(a.Question) != 1 {
					t.Errorf("got %v, want SERVFAIL", a)
				}
			}
		}
	}
	t.Run("nobody listens", func(t *testing.T) {
		check(t, start(t, Config{Port: port}, "127.0.0.1", "127.0.0.2"))
	})
	t.Run("no file", func(t *testing.T) {
		check(t, start(t, Config{Port: port, ResolvConf: filepath.Join(t.TempDir(), "none")}))
	})
	t.Run("silent", func(t *testing.T) {
		deadServer(t, "127.0.0.1", port)
		deadServer(t, "127.0.0.2", port)
		check(t, start(t, Config{Port: port, Retry: 50 * time.Millisecond, Timeout: 200 * time.Millisecond}, "127.0.0.1", "127.0.0.2"))
	})
}

func TestB29_StreamFailsOver(t *testing.T) {
	for _, tc := range []struct {
		name string
		dead func(t *testing.T, addr string, port uint16)
		want time.Duration
	}{
		{"refusing", func(*testing.T, string, uint16) {}, time.Second},
		{"silent", deadServer, 2 * time.Second},
		{"closing", closingServer, time.Second},
		{"unreachable backlog", fullServer, 2 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			port := freePort(t, "127.0.0.1", "127.0.0.2")
			tc.dead(t, "127.0.0.1", port)
			serve(t, "127.0.0.2", port, says("192.0.2.2"))
			r := start(t, Config{Port: port}, "127.0.0.1", "127.0.0.2")
			c := dial(t, r)
			began := time.Now()
			c.send(query("one.example.", mdns.TypeA), query("two.example.", mdns.TypeA))
			checkA(t, c.receive(), "192.0.2.2")
			checkA(t, c.receive(), "192.0.2.2")
			if d := time.Since(began); d > tc.want {
				t.Errorf("took %v, want at most %v", d, tc.want)
			}
			// The dead one is asked last from now on.
			c = dial(t, r)
			began = time.Now()
			c.send(query("three.example.", mdns.TypeA))
			checkA(t, c.receive(), "192.0.2.2")
			if d := time.Since(began); d > 500*time.Millisecond {
				t.Errorf("the next stream's answer took %v", d)
			}
		})
	}
}

// closingServer closes every connection once it has read from it.
func closingServer(t *testing.T, addr string, port uint16) {
	l, err := net.Listen("tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// fullServer lets no connection be established: its queue is full.
func fullServer(t *testing.T, addr string, port uint16) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	at := &unix.SockaddrInet4{Port: int(port), Addr: [4]byte(net.ParseIP(addr).To4())}
	if err := errors.Join(unix.Bind(fd, at), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(c) })
		if err := unix.Connect(c, at); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
}

// A nameserver may close between two queries; that is no failure.
func TestStreamReconnects(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	n := serve(t, "127.0.0.1", port, func(w mdns.ResponseWriter, q *mdns.Msg) {
		says("192.0.2.1")(w, q)
		if w.RemoteAddr().Network() == "tcp" {
			w.Close()
		}
	})
	c := dial(t, start(t, Config{Port: port}, "127.0.0.1"))
	for range 5 {
		c.send(query("name.example.", mdns.TypeA))
		checkA(t, c.receive(), "192.0.2.1")
	}
	c.send(query("a.example.", mdns.TypeA), query("b.example.", mdns.TypeA), query("c.example.", mdns.TypeA))
	for range 3 {
		checkA(t, c.receive(), "192.0.2.1")
	}
	if got := n.tcp.Load(); got < 8 {
		t.Errorf("%d queries came over TCP, want at least 8", got)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	r := start(t, Config{MaxStreams: 2, Idle: 100 * time.Millisecond, ResolvConf: filepath.Join(t.TempDir(), "none")})
	one, two := dial(t, r), dial(t, r)
	if fd, err := r.Stream(); !errors.Is(err, ErrTooManyStreams) {
		t.Errorf("third stream: %d, %v", fd, err)
	}
	// Both end by themselves; half a message is no activity.
	if _, err := one.Write([]byte{0, 50, 1}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []client{one, two} {
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("idle stream: %v, want EOF", err)
		}
	}
	eventually(t, "an ended stream leaves its place", func() bool {
		fd, err := r.Stream()
		if err == nil {
			unix.Close(fd)
		}
		return err == nil
	})
	r.Close()
	if _, err := r.Stream(); !errors.Is(err, ErrClosed) {
		t.Errorf("stream of a closed resolver: %v", err)
	}
}

// A guest that sends and never reads holds no more than the bounds.
func TestStreamPushesBack(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	deadServer(t, "127.0.0.1", port)
	r := start(t, Config{Port: port}, "127.0.0.1")
	c := dial(t, r)
	c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	m := pack(t, query("name.example.", mdns.TypeA))
	m = append(m, make([]byte, 60000)...)
	m = append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
	sent := 0
	for {
		n, err := c.Write(m)
		sent += n
		if err != nil {
			break
		}
		if sent > 4<<20 {
			t.Fatalf("%d bytes were taken", sent)
		}
	}
	began := time.Now()
	r.Close()
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
}

func TestStreamEndsOnWhatIsNoQuery(t *testing.T) {
	r := start(t, Config{ResolvConf: filepath.Join(t.TempDir(), "none")})
	for _, m := range [][]byte{{0, 0}, {0, 3, 1, 2, 3}, append([]byte{0, 12, 0, 1, 0x80}, make([]byte, 9)...)} {
		c := dial(t, r)
		if _, err := c.Write(m); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, unix.EAGAIN) {
			t.Errorf("%x: %v, want the end", m, err)
		}
	}
}

// The upstream connection of a stream that got nothing is not kept.
func TestStreamLeavesSilentConnection(t *testing.T) {
	port := freePort(t, "127.0.0.1")
	var silent atomic.Bool
	silent.Store(true)
	n := serve(t, "127.0.0.1", port, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if !silent.Load() {
			says("192.0.2.1")(w, q)
		}
	})
	c := dial(t, start(t, Config{Port: port, Retry: 50 * time.Millisecond, Timeout: 200 * time.Millisecond}, "127.0.0.1"))
	c.send(query("name.example.", mdns.TypeA))
	if a := c.receive(); a.Rcode != mdns.RcodeServerFailure {
		t.Errorf("got %v, want SERVFAIL", a)
	}
	silent.Store(false)
	c.send(query("name.example.", mdns.TypeA))
	checkA(t, c.receive(), "192.0.2.1")
	n.mu.Lock()
	defer n.mu.Unlock()
	if got := len(n.streams); got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
}
