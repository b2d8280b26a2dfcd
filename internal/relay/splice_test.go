package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/connect"
	"epiphyte/internal/flow"
	"epiphyte/internal/shard"
)

const patience = 10 * time.Second

// world is a relay that is being served.
type world struct {
	*Relay
	t     *testing.T
	shard *shard.Shard
	joins int
	last  *flow.Flow // of the last join
}

func newWorld(t *testing.T) *world {
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	table := flow.New(s, flow.Limits{})
	w := &world{Relay: New(Config{Shard: s, Table: table}), t: t, shard: s}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		table.Close()
		w.Relay.Close()
		s.Close()
	})
	return w
}

// loopbackPair makes a TCP connection over loopback: our end, and the other's.
func loopbackPair(t *testing.T) (fd int, other *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	accepted.SetDeadline(time.Now().Add(patience))
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	return fd, accepted.(*net.TCPConn)
}

// keep remembers events until the relay takes over.
type keep uint32

func (k *keep) Ready(events uint32) { *k |= keep(events) }

// join joins two connections, one of which is watched already, and returns the
// far ends.
func (w *world) join() (host, guest *net.TCPConn) {
	w.t.Helper()
	return w.joinAfter(func(*net.TCPConn) {})
}

// joinAfter joins them when the host's far end has done something.
func (w *world) joinAfter(before func(host *net.TCPConn)) (host, guest *net.TCPConn) {
	w.t.Helper()
	a, host := loopbackPair(w.t)
	b, guest := loopbackPair(w.t)
	unix.SetsockoptInt(a, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	unix.SetsockoptInt(b, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	before(host)
	w.do(func() {
		var ends [2]connect.Socket
		for i, fd := range [2]int{a, b} {
			ends[i] = connect.Socket{FD: fd}
			if n, _ := unix.IoctlGetInt(fd, unix.SIOCINQ); n > 0 { // as for a client that has sent something
				ends[i].Events = unix.EPOLLIN
			}
			if i == w.joins%2 {
				watch, err := w.shard.Watch(fd, connect.Events, new(keep))
				if err != nil {
					w.t.Error(err)
				}
				ends[i].Watch = watch
			}
		}
		w.joins++
		record := &flow.Flow{Kind: flow.Client, Src: netip.MustParseAddrPort("10.0.2.100:80"), Proto: unix.IPPROTO_TCP}
		w.table.Add(record)
		w.last = record
		w.Join(ends[0], ends[1], record)
	})
	return host, guest
}

// do runs f on the shard's thread.
func (w *world) do(f func()) {
	done := make(chan struct{})
	w.shard.Post(shard.TaskFunc(func() {
		f()
		close(done)
	}))
	<-done
}

// wantIdle waits until no connection is left.
func (w *world) wantIdle() {
	w.t.Helper()
	w.wait("connections", func() int { return w.table.Count(flow.Conn) })
}

// wait waits until count, on the shard's thread, is zero.
func (w *world) wait(what string, count func() int) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; {
		n := 0
		w.do(func() { n = count() })
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d %s left", n, what)
		}
	}
}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// A relay at rest holds no pipe, whatever it has carried.
func TestSparePipesGo(t *testing.T) {
	w := newWorld(t)
	host, guest := w.join()
	const size = 1 << 20
	go host.Write(random(size, 1))
	if _, err := io.ReadFull(guest, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	w.do(func() {
		if len(w.pipes) == 0 {
			t.Error("no pipe was kept, so the test shows nothing")
		}
	})
	host.Close()
	guest.Close()
	w.wait("pipes", func() int { return len(w.pipes) })
}

// A pipe that the kernel gives less room than there are pieces to move does not
// make the rest be forgotten: no edge would tell of it.
func TestJoinBySmallPipe(t *testing.T) {
	w := newWorld(t)
	host, guest := w.join()
	other, _ := w.join()
	w.do(func() {
		p := openPipe(unix.Getpagesize())
		if p.slots != 1 {
			t.Errorf("a pipe of one page has %d slots", p.slots)
		}
		w.givePipe(p)
		// The pieces are all there when the relay looks, and apart: what one
		// thread writes to two sockets in turn lies in turn in its memory.
		for i := range 4 {
			for _, c := range [2]*net.TCPConn{host, other} {
				if _, err := c.Write([]byte{byte('a' + i)}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	guest.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, 4)
	if _, err := io.ReadFull(guest, got); err != nil || string(got) != "abcd" {
		t.Errorf("%q, %v", got, err)
	}
	host.Close()
	guest.Close()
}

// Both ways at once, more than all buffers hold, and each end closes when it
// has sent all: the other goes on (B11).
func TestB11_JoinHalfClose(t *testing.T) {
	w := newWorld(t)
	host, guest := w.join()
	const size = 20 << 20
	var all sync.WaitGroup
	for i, c := range [2]*net.TCPConn{host, guest} {
		mine, other := random(size, byte(i)), random(size, byte(1-i))
		all.Go(func() {
			if _, err := c.Write(mine); err != nil {
				t.Error(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, other) {
				t.Errorf("%d of %d bytes arrived, or others, %v", len(got), size, err)
			}
		})
	}
	all.Wait()
	w.wantIdle()
	if total := w.table.Totals(); total != (flow.Totals{Connections: 1, In: size, Out: size}) {
		t.Errorf("counted %+v", total)
	}
}

// One end closes first, and hears the other's answer of later.
func TestB11_JoinAnswerAfterEnd(t *testing.T) {
	w := newWorld(t)
	for _, swap := range []bool{false, true} {
		a, b := w.join()
		if swap {
			a, b = b, a
		}
		io.WriteString(a, "question")
		a.CloseWrite()
		if got, err := io.ReadAll(b); err != nil || string(got) != "question" {
			t.Fatalf("%q, %v", got, err)
		}
		io.WriteString(b, "answer")
		b.Close()
		if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
			t.Fatalf("%q, %v", got, err)
		}
		w.wantIdle()
	}
}

// B18: the end that has closed its side is asked soon whether it is still there,
// so that a peer which never closes does not keep the connection for ever.
func TestB18_JoinHalfClosedIsWatched(t *testing.T) {
	w := newWorld(t)
	for _, swap := range []bool{false, true} {
		a, b := w.join()
		if swap {
			a, b = b, a
		}
		a.CloseWrite()
		if rest, err := io.ReadAll(b); err != nil || len(rest) > 0 {
			t.Fatalf("%q, %v", rest, err)
		}
		w.do(func() {
			if !w.shard.Armed(&w.keepalive) {
				t.Error("nobody will look after it")
			}
			w.updateKeepalive() // which the timer does ten seconds from now
			w.table.Each(flow.Conn, func(f *flow.Flow) {
				s := f.Owner.(*splice)
				e := &s.host
				if swap {
					e = &s.guest
				}
				on, _ := unix.GetsockoptInt(e.FD, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
				idle, _ := unix.GetsockoptInt(e.FD, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
				if !e.done || on != 1 || idle != int(halfClosedIdle.Seconds()) {
					t.Errorf("swapped %v: done %v, keepalive %d after %d s", swap, e.done, on, idle)
				}
			})
		})
		b.Close()
		w.wantIdle()
	}
}

// B12: a reset of either end is one of the other, at once: with nothing to be
// moved, with bytes that nobody takes, and with one direction closed.
func TestB12_JoinReset(t *testing.T) {
	w := newWorld(t)
	for _, swap := range []bool{false, true} {
		for name, before := range map[string]func(a, b *net.TCPConn){
			"idle": func(a, b *net.TCPConn) {},
			"stalled": func(a, b *net.TCPConn) {
				a.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
				if _, err := a.Write(make([]byte, 64<<20)); !errors.Is(err, syscall.ETIMEDOUT) && !isTimeout(err) {
					t.Errorf("64 MiB that nobody reads: %v", err)
				}
			},
			"half closed": func(a, b *net.TCPConn) {
				a.CloseWrite()
				io.Copy(io.Discard, b)
			},
		} {
			a, b := w.join()
			if swap {
				a, b = b, a
			}
			before(a, b)
			a.SetLinger(0)
			a.Close()
			if name == "stalled" {
				// What had arrived may be read; then comes the reset.
				if _, err := io.Copy(io.Discard, b); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("%s: %v", name, err)
				}
			} else if name == "idle" {
				if _, err := b.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("%s: %v", name, err)
				}
			} else {
				for end := time.Now().Add(patience); ; {
					if _, err := b.Write([]byte("x")); err != nil {
						break
					}
					if time.Now().After(end) {
						t.Fatal("the other end never hears of the reset")
					}
				}
			}
			w.wantIdle()
		}
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// Urgent data stays data, in its place.
func TestJoinUrgent(t *testing.T) {
	w := newWorld(t)
	host, guest := w.join()
	raw, err := host.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		text  string
		flags int
	}{{"before", 0}, {"!", unix.MSG_OOB}, {"after", 0}} {
		raw.Control(func(f uintptr) { err = unix.Send(int(f), []byte(part.text), part.flags) })
		if err != nil {
			t.Fatal(err)
		}
	}
	host.CloseWrite()
	if got, err := io.ReadAll(guest); err != nil || string(got) != "before!after" {
		t.Errorf("%q, %v", got, err)
	}
	guest.Close()
	w.wantIdle()
}

// An urgent byte first, and the end of the stream behind it, all there before the
// connections are joined.
func TestJoinUrgentFirst(t *testing.T) {
	w := newWorld(t)
	for range 2 { // with either end of the client watched, or not
		_, guest := w.joinAfter(func(host *net.TCPConn) {
			raw, err := host.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(f uintptr) { err = unix.Send(int(f), []byte("1"), unix.MSG_OOB) })
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(host, "2345")
			host.CloseWrite()
		})
		if got, err := io.ReadAll(guest); err != nil || string(got) != "12345" {
			t.Errorf("%q, %v", got, err)
		}
		guest.Close()
		w.wantIdle()
	}
}

// B19: with no descriptor for a pipe the bytes go by our memory.
func TestB19_JoinWithoutPipes(t *testing.T) {
	w := newWorld(t)
	host, guest := w.join()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	data := random(8<<20, 3)
	go func() {
		host.Write(data)
		host.CloseWrite()
	}()
	if got, err := io.ReadAll(guest); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes arrived, %v", len(got), err)
	}
	w.do(func() {
		if len(w.pipes) != 0 {
			t.Error("there was a pipe")
		}
	})
	guest.Close()
	w.wantIdle()
}
