package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// directStock is how many sockets the direct path holds in reserve. At a moment any of
// them may be missing, because a busy machine has not let the agent run that makes them.
const directStock = 64

// eachPublished runs f with a published TCP port for each way to carry clients in, side by
// side. Each way has a port of its own on the host, 5000 above the last one's: besides, a
// client's kernel that has thousands of connections to one port in TIME-WAIT takes long to
// find itself another port for it.
func eachPublished(t *testing.T, first int, f func(t *testing.T, w *world, f family, hostPort string)) {
	t.Helper()
	for i, path := range publishPaths() {
		hostPort := strconv.Itoa(first + 5000*i)
		t.Run(path.name, func(t *testing.T) {
			t.Parallel()
			w := published(t, hostPort, "", append(path.flags, "--mtu=65520")...)
			if path.name == "direct" {
				w.stock = directStock
			}
			eachFamily(t, func(t *testing.T, fam family) { f(t, w, fam, hostPort) })
		})
	}
}

// TestB34_NobodyListens: the client is reset at once; a listener that appears
// is reached without a restart.
func TestB34_NobodyListens(t *testing.T) {
	t.Parallel()
	eachPublished(t, 18034, func(t *testing.T, w *world, f family, hostPort string) {
		reset := func() time.Duration {
			begin := time.Now()
			err := refusal(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.host(), hostPort))
			if !isErrno(err, unix.ECONNRESET) {
				t.Errorf("nobody listens, and the client saw %v", err)
			}
			return time.Since(begin)
		}
		var took []time.Duration
		for range 9 {
			took = append(took, reset())
		}
		if median(took) > 2*time.Second {
			t.Errorf("reset after %v", took)
		}
		l := must(w.Listen("tcp"+f.v, f.anyHost()+":"+guestPort))(t)
		accepted := make(chan net.Conn, 1)
		go func() {
			defer close(accepted)
			if c, err := l.Accept(); err == nil {
				accepted <- c
			}
		}()
		c := client(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.host(), hostPort))
		server, ok := <-accepted
		if !ok {
			t.Fatal("a listener that appeared is not reached")
		}
		if err := exchange(c.(*net.TCPConn), server.(*net.TCPConn)); err != nil {
			t.Error(err)
		}
		server.Close()
		l.Close()
		reset()
	})
}

// TestB34_SilentGuest: a guest that does not answer costs a client ten seconds
// and others nothing.
func TestB34_SilentGuest(t *testing.T) {
	t.Parallel()
	ours(t, "--publish")
	var flags []string
	for _, f := range families() {
		flags = append(flags, f.rule("18134")+":8080", f.rule("18135")+":8081")
	}
	w := serve(t, flags...)
	for _, f := range families() {
		serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":8081", echoTCP)
		// A listener whose queue is full lets a SYN pass without a word.
		fd := must(w.Socket(f.af, unix.SOCK_STREAM, 0))(t)
		defer unix.Close(fd)
		if f.af == unix.AF_INET6 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(unix.Bind(fd, sockaddr(strings.Trim(f.anyHost(), "[]"), 8080)), unix.Listen(fd, 0)); err != nil {
			t.Fatal(err)
		}
		client(t, w.NetNS, "tcp"+f.v, net.JoinHostPort(f.loop, "8080"))
	}
	before := w.usage(t)
	begin := time.Now()
	var waiting []net.Conn
	for _, f := range families() {
		for range 100 {
			waiting = append(waiting, client(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "18134")))
		}
		beside := client(t, env.Host, "tcp"+f.v, net.JoinHostPort(f.loop, "18135"))
		if err := says(beside, "hello"); err != nil {
			t.Errorf("beside clients that wait: %v", err)
		}
		beside.Close()
	}
	if took := time.Since(begin); late(t, took, 2*time.Second) {
		t.Errorf("another port answers after %v", took)
	}
	for _, c := range waiting {
		if _, err := c.Read(make([]byte, 1)); !isErrno(err, unix.ECONNRESET) {
			t.Fatalf("a silent guest: %v", err)
		}
	}
	if took := time.Since(begin); took < 9*time.Second || took > 15*time.Second {
		t.Errorf("clients of a silent guest were given up after %v, want 10 s", took)
	}
	w.backTo(t, before, 16<<20)
}

// TestB10_PublishedTransfer moves 100 MB in each direction at once.
func TestB10_PublishedTransfer(t *testing.T) {
	t.Parallel()
	const size = 100 << 20
	block := random(10, 1<<20)
	send := func(c *net.TCPConn) error {
		for range size / len(block) {
			if _, err := c.Write(block); err != nil {
				return err
			}
		}
		return c.CloseWrite()
	}
	receive := func(c *net.TCPConn) error {
		got := make([]byte, len(block))
		for i := range size / len(block) {
			if _, err := io.ReadFull(c, got); err != nil {
				return fmt.Errorf("after %d MB: %w", i, err)
			}
			if !bytes.Equal(got, block) {
				return fmt.Errorf("other bytes arrived after %d MB", i)
			}
		}
		if n, err := c.Read(got); err != io.EOF {
			return fmt.Errorf("%d bytes too many, %w", n, err)
		}
		return nil
	}
	both := func(c *net.TCPConn) error {
		sent := make(chan error, 1)
		go func() { sent <- send(c) }()
		return errors.Join(receive(c), <-sent)
	}
	eachPublished(t, 18010, func(t *testing.T, w *world, f family, hostPort string) {
		served := make(chan error, 1)
		serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, func(c *net.TCPConn) { served <- both(c) })
		for _, o := range origins(f)[1:] {
			c := o.dial(t, f, "tcp"+f.v, net.JoinHostPort(o.to, hostPort)).(*net.TCPConn)
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(both(c), <-served); err != nil {
				t.Errorf("from %s: %v", o.name, err)
			}
		}
	})
}

// TestB11_PublishedHalfClose: either side ends its direction first, and 5 MB
// come the other way.
func TestB11_PublishedHalfClose(t *testing.T) {
	t.Parallel()
	data := random(11, 5<<20)
	first := func(c *net.TCPConn) error {
		if _, err := c.Write([]byte("last words")); err != nil {
			return err
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		got, err := io.ReadAll(c)
		if err == nil && !bytes.Equal(got, data) {
			err = fmt.Errorf("received %d bytes of %d, or others", len(got), len(data))
		}
		return err
	}
	second := func(c *net.TCPConn) error {
		if got, err := io.ReadAll(c); err != nil || string(got) != "last words" {
			return fmt.Errorf("before the end of the stream: %q, %w", got, err)
		}
		if _, err := c.Write(data); err != nil {
			return err
		}
		return c.CloseWrite()
	}
	eachPublished(t, 18011, func(t *testing.T, w *world, f family, hostPort string) {
		before := w.usage(t)
		for _, o := range origins(f) {
			t.Run(o.name, func(t *testing.T) {
				for name, sides := range map[string][2]func(*net.TCPConn) error{"client": {first, second}, "server": {second, first}} {
					t.Run(name+" stops first", func(t *testing.T) {
						served := make(chan error, 1)
						serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, func(c *net.TCPConn) { served <- sides[1](c) })
						c := o.dial(t, f, "tcp"+f.v, net.JoinHostPort(o.to, hostPort)).(*net.TCPConn)
						if err := errors.Join(sides[0](c), <-served); err != nil {
							t.Error(err)
						}
					})
				}
			})
		}
		w.backTo(t, before, 64<<20)
	})
}

// TestB12_PublishedReset: a reset by the client or the server reaches the other
// within 100 ms.
func TestB12_PublishedReset(t *testing.T) {
	t.Parallel()
	eachPublished(t, 18012, func(t *testing.T, w *world, f family, hostPort string) {
		accepted, release := make(chan *net.TCPConn), make(chan struct{})
		defer close(release)
		serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, func(c *net.TCPConn) {
			accepted <- c
			<-release
		})
		before := w.usage(t)
		for _, o := range origins(f) {
			for _, by := range []string{"client", "server"} {
				a := o.dial(t, f, "tcp"+f.v, net.JoinHostPort(o.to, hostPort)).(*net.TCPConn)
				b := <-accepted
				if by == "server" {
					a, b = b, a
				}
				if err := exchange(a, b); err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				if err := errors.Join(a.SetLinger(0), a.Close(), b.SetReadDeadline(begin.Add(deadline))); err != nil {
					t.Fatal(err)
				}
				_, err := b.Read(make([]byte, 1))
				if took := time.Since(begin); !isErrno(err, unix.ECONNRESET) {
					t.Errorf("from %s, reset by the %s: the other side saw %v after %v", o.name, by, err, took)
				}
				b.Close()
			}
		}
		w.backTo(t, before, 32<<20)
	})
}

// TestB16_PublishedShortConnections: 10 000 from another machine, more from loopback, and
// nothing stays behind.
func TestB16_PublishedShortConnections(t *testing.T) {
	t.Parallel()
	eachPublished(t, 18016, func(t *testing.T, w *world, f family, hostPort string) {
		serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, func(c *net.TCPConn) {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err == nil {
				_, _ = c.Write(b)
				_, _ = c.Read(b)
			}
		})
		const total = 10_000
		before := w.usage(t)
		begin := time.Now()
		for _, o := range []struct {
			ns *harness.NetNS
			to string
			n  int
		}{{env.Net.Net, f.host(), total}, {env.Host, f.loop, total / 5}} {
			// Several at a time: on a busy machine one spends its time waiting for a processor.
			if err := shareOut(o.ns, 8, o.n, func(int) error {
				return oneByte(f, net.JoinHostPort(o.to, hostPort))
			}); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d connections in %v", total+total/5, time.Since(begin).Round(time.Millisecond))
		w.backTo(t, before, 64<<20)
	})
}

// TestB16_PublishedConcurrentConnections: 2000 at once each get their own bytes
// back.
func TestB16_PublishedConcurrentConnections(t *testing.T) {
	var descriptors sync.Mutex // are the process's: one path at a time has its connections
	eachPublished(t, 18017, func(t *testing.T, w *world, f family, hostPort string) {
		descriptors.Lock()
		defer descriptors.Unlock()
		total := descriptorRoom(t, 2000)
		serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, echoTCP)
		clients := &world{Guest: &harness.Guest{NetNS: env.Net.Net}} // who are elsewhere
		clients.manyConnections(t, f, net.JoinHostPort(f.host(), hostPort), total/10)
		before := w.usage(t)
		begin := time.Now()
		clients.manyConnections(t, f, net.JoinHostPort(f.host(), hostPort), total)
		t.Logf("%d connections opened, used and closed in %v", total, time.Since(begin).Round(time.Millisecond))
		w.backTo(t, before, 160<<20)
	})
}

// TestB19_PublishedAtTheDescriptorLimit: clients beyond the limit wait, in a
// queue and not in a loop; those that are in live, and the others get in when
// there is room.
func TestB19_PublishedAtTheDescriptorLimit(t *testing.T) {
	t.Parallel()
	ours(t, "--publish")
	eachFamily(t, publishedAtTheDescriptorLimit)
}

func publishedAtTheDescriptorLimit(t *testing.T, f family) {
	const limit, clients = 100, 150
	w := serveWith(t, harness.HelperConfig{Wrap: []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, limit)}},
		"--publish-mode=stack", f.rule("18019")+":8080")
	serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":8080", echoTCP)
	var in, waiting []net.Conn
	for range clients {
		c := client(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.host(), "18019"))
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		// Once one has to wait, so do all after it.
		if len(waiting) == 0 && says(c, "hello") == nil {
			in = append(in, c)
		} else {
			waiting = append(waiting, c)
		}
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
	}
	if len(in) < limit/2 || len(waiting) < clients-limit {
		t.Fatalf("with %d descriptors %d clients are in and %d wait", limit, len(in), len(waiting))
	}
	before, begin := w.usage(t), time.Now()
	for range 100 {
		for _, c := range in[:10] {
			if err := says(c, "still here"); err != nil {
				t.Fatal(err)
			}
		}
	}
	quiet := time.NewTimer(time.Second)
	defer quiet.Stop()
	<-quiet.C
	if used := w.usage(t).CPU - before.CPU; used > time.Since(begin)/2 {
		t.Errorf("%v of CPU time in %v: it is spinning", used, time.Since(begin))
	}
	for _, c := range in {
		c.Close()
	}
	for i, c := range waiting {
		if i == 0 { // it has said hello already, and has not read the answer
			if _, err := io.ReadFull(c, make([]byte, len("hello"))); err != nil {
				t.Fatalf("the client that waited first: %v", err)
			}
		}
		if err := says(c, "at last"); err != nil {
			t.Fatalf("waiting client %d of %d: %v", i, len(waiting), err)
		}
		c.Close()
	}
}
