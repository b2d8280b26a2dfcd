package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestB10_EchoInEveryChunking sends both ways at once, in writes from a byte to
// a megabyte, and compares what comes back.
func TestB10_EchoInEveryChunking(t *testing.T) {
	eachCell(t, func(t *testing.T, w *world, f family) {
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		for _, shape := range []struct{ size, chunk int }{
			{1, 1}, {1000, 7}, {100_000, 4096}, {4 << 20, 65536}, {8 << 20, 1 << 20},
		} {
			c := w.dial(t, "tcp"+f.v, hostPort(f.server, addr)).(*net.TCPConn)
			data := random(uint64(shape.size), shape.size)
			sent := make(chan error, 1)
			go func() {
				err := writeChunks(c, data, shape.chunk)
				sent <- errors.Join(err, c.CloseWrite())
			}()
			got, err := io.ReadAll(c)
			if err := errors.Join(err, <-sent); err != nil {
				t.Fatalf("%d bytes in chunks of %d: %v", shape.size, shape.chunk, err)
			}
			if !bytes.Equal(got, data) {
				t.Fatalf("%d bytes in chunks of %d came back different (%d bytes)", shape.size, shape.chunk, len(got))
			}
			c.Close()
		}
	})
}

// TestB10_TransferKeepsChecksum moves 100 MB in each direction.
func TestB10_TransferKeepsChecksum(t *testing.T) {
	eachCell(t, func(t *testing.T, w *world, f family) {
		const size = 100 << 20
		block := random(10, 1<<20)
		want := sha256.New()
		for range size / len(block) {
			want.Write(block)
		}
		send := func(c *net.TCPConn) error {
			for range size / len(block) {
				if _, err := c.Write(block); err != nil {
					return err
				}
			}
			return c.CloseWrite()
		}
		receive := func(c *net.TCPConn) error {
			got := sha256.New()
			if n, err := io.Copy(got, c); err != nil || n != size {
				return fmt.Errorf("received %d bytes of %d: %w", n, size, err)
			}
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				return errors.New("checksums differ")
			}
			return nil
		}
		for name, dir := range map[string]struct{ guest, server func(*net.TCPConn) error }{
			"out": {send, receive}, "in": {receive, send},
		} {
			result := make(chan error, 1)
			addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) { result <- dir.server(c) })
			c := w.dial(t, "tcp"+f.v, hostPort(f.server, addr)).(*net.TCPConn)
			if err := errors.Join(dir.guest(c), <-result); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			c.Close()
		}
	})
}

// TestB11_HalfCloseKeepsTheOtherDirection: the end of one direction is carried
// over while the other goes on for 10 MB, and mirrored.
func TestB11_HalfCloseKeepsTheOtherDirection(t *testing.T) {
	data := random(11, 10<<20)
	// The side that stops first says so, then reads to the end.
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
		got, err := io.ReadAll(c)
		if err != nil || string(got) != "last words" {
			return fmt.Errorf("before the end of the stream: %q, %w", got, err)
		}
		if _, err := c.Write(data); err != nil {
			return err
		}
		return c.CloseWrite()
	}
	eachCell(t, func(t *testing.T, w *world, f family) {
		for name, dir := range map[string]struct{ guest, server func(*net.TCPConn) error }{
			"guest stops first": {first, second}, "server stops first": {second, first},
		} {
			before := w.usage(t)
			result := make(chan error, 1)
			addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) { result <- dir.server(c) })
			c := w.dial(t, "tcp"+f.v, hostPort(f.server, addr)).(*net.TCPConn)
			if err := errors.Join(dir.guest(c), <-result); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			c.Close()
			w.backTo(t, before, 64<<20)
		}
	})
}

// TestB12_ResetReachesTheOtherSide within 100 ms, at each stage of a
// connection: silent, after data, with unread data, half closed.
func TestB12_ResetReachesTheOtherSide(t *testing.T) {
	stages := map[string]func(resetter, other *net.TCPConn) error{
		"silent":     func(_, _ *net.TCPConn) error { return nil },
		"after data": func(r, o *net.TCPConn) error { return exchange(r, o) },
		"other half closed": func(r, o *net.TCPConn) error {
			if err := o.CloseWrite(); err != nil {
				return err
			}
			_, err := io.ReadAll(r)
			return err
		},
	}
	reset := func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }
	alone(t, func(t *testing.T, w *world, f family) {
		accepted := make(chan *net.TCPConn)
		release := make(chan struct{})
		defer close(release)
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
			accepted <- c
			<-release
		})
		before := w.usage(t)
		for stage, prepare := range stages {
			for _, by := range []string{"guest", "server"} {
				a := w.dial(t, "tcp"+f.v, hostPort(f.server, addr)).(*net.TCPConn)
				b := <-accepted
				if by == "server" {
					a, b = b, a
				}
				if err := prepare(a, b); err != nil {
					t.Fatalf("%s: %v", stage, err)
				}
				begin := time.Now()
				if err := reset(a); err != nil {
					t.Fatal(err)
				}
				if err := b.SetReadDeadline(begin.Add(deadline)); err != nil {
					t.Fatal(err)
				}
				_, err := b.Read(make([]byte, 1))
				if took := time.Since(begin); !isErrno(err, unix.ECONNRESET) {
					t.Errorf("%s, reset by %s: the other side saw %v after %v, want ECONNRESET", stage, by, err, took)
				}
				b.Close()
			}
		}
		w.backTo(t, before, 32<<20)
	})
}

// exchange sends a few bytes each way.
func exchange(a, b *net.TCPConn) error {
	for _, dir := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		if _, err := dir[0].Write([]byte("data")); err != nil {
			return err
		}
		if _, err := io.ReadFull(dir[1], make([]byte, 4)); err != nil {
			return err
		}
	}
	return nil
}

// TestB13_ClosedPortRefuses at once, and never accepts first.
func TestB13_ClosedPortRefuses(t *testing.T) {
	alone(t, func(t *testing.T, w *world, f family) {
		var took []time.Duration
		for range 9 {
			begin := time.Now()
			c, err := w.Dial(timeout(t, deadline), "tcp"+f.v, net.JoinHostPort(f.server, "4"))
			took = append(took, time.Since(begin))
			if !isErrno(err, unix.ECONNREFUSED) {
				t.Errorf("connect gave %v, %v, want ECONNREFUSED", c, err)
			}
		}
		if median(took) > time.Second { // what a SYN that is lost waits
			t.Errorf("refused after %v", took)
		}
	})
}

// TestB14_SilentHostLeavesTheTimeoutToTheClient: no SYN-ACK, no refusal.
func TestB14_SilentHostLeavesTheTimeoutToTheClient(t *testing.T) {
	alone(t, func(t *testing.T, w *world, f family) {
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		begin := time.Now()
		c, err := w.Dial(ctx, "tcp"+f.v, net.JoinHostPort(f.silent, "80"))
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() || time.Since(begin) < 350*time.Millisecond {
			t.Errorf("connect gave %v, %v after %v, want the client's own timeout", c, err, time.Since(begin))
		}
	})
}

// TestB14_SilentHostsDelayNobody: with 1000 SYNs to a silent address under way,
// a connection to a live one is made at most 50 ms later than without.
func TestB14_SilentHostsDelayNobody(t *testing.T) {
	const syns = 1000
	alone(t, func(t *testing.T, w *world, f family) {
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		connect := func() time.Duration {
			begin := time.Now()
			w.dial(t, "tcp"+f.v, hostPort(f.server, addr)).Close()
			return time.Since(begin)
		}
		var quiet, busy []time.Duration
		for range 9 {
			quiet = append(quiet, connect())
		}
		before := w.usage(t)
		fds := make([]int, 0, syns)
		defer func() {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}()
		// A hundred at a time: a thousand in one go fill the kernel's own queue
		// in front of the TAP, which drops whatever comes next.
		for len(fds) < syns {
			if err := w.Do(func() error {
				for range 100 {
					fd, err := unix.Socket(f.af, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
					if err != nil {
						return err
					}
					fds = append(fds, fd)
					if err := unix.Connect(fd, sockaddr(f.silent, 80)); err != unix.EINPROGRESS {
						return fmt.Errorf("connect to a silent address: %w", err)
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			busy = append(busy, connect())
		}
		for range 10 {
			busy = append(busy, connect())
		}
		if median(busy) > 10*median(quiet)+time.Second {
			t.Errorf("connections took %v beside %d silent ones, %v without", busy, syns, quiet)
		}
		if during := w.usage(t); env.Product && during.FDs < before.FDs+syns/2 {
			t.Errorf("only %d of %d connections are being tried", during.FDs-before.FDs, syns)
		}
	})
}

// TestB15_UnreachableIsNotRefused: the guest sees the error that the host saw.
func TestB15_UnreachableIsNotRefused(t *testing.T) {
	alone(t, func(t *testing.T, w *world, f family) {
		for dst, want := range map[string][]unix.Errno{
			f.noHost: {unix.EHOSTUNREACH},
			// A router has one code for "no route" in ICMPv6 and two in ICMP,
			// and the kernel folds some of them.
			f.noNet: {unix.ENETUNREACH, unix.EHOSTUNREACH},
		} {
			begin := time.Now()
			c, err := w.Dial(timeout(t, deadline), "tcp"+f.v, net.JoinHostPort(dst, "80"))
			if !isErrno(err, want...) {
				t.Errorf("connect to %s gave %v, %v after %v, want %v", dst, c, err, time.Since(begin), want)
			}
		}
	})
}

// TestB17_SlowReaderLosesNothing: a reader that stops stops the writer, memory
// stays bounded, and the rest arrives when it goes on.
func TestB17_SlowReaderLosesNothing(t *testing.T) {
	alone(t, func(t *testing.T, w *world, f family) {
		block := random(17, 1<<20)
		for _, from := range []string{"guest", "server"} {
			accepted := make(chan *net.TCPConn)
			release := make(chan struct{})
			addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
				accepted <- c
				<-release
			})
			before := w.usage(t)
			writer := w.dial(t, "tcp"+f.v, hostPort(f.server, addr)).(*net.TCPConn)
			reader := <-accepted
			if from == "server" {
				writer, reader = reader, writer
			}
			var sent int
			for { // until nothing has moved for half a second
				if err := writer.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				n, err := writer.Write(block[sent%len(block):])
				sent += n
				if err != nil {
					break
				}
				if sent > 256<<20 {
					t.Fatalf("%d bytes accepted from %s and nobody read", sent, from)
				}
			}
			if grown := w.usage(t).RSS - before.RSS; grown > 64<<20 {
				t.Errorf("the helper grew by %d MB for one reader that stopped", grown>>20)
			}
			if err := writer.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(reader)
			if err != nil || len(got) != sent {
				t.Fatalf("from %s: %d bytes of %d arrived: %v", from, len(got), sent, err)
			}
			for i := 0; i < len(got); i += len(block) {
				end := min(i+len(block), len(got))
				if !bytes.Equal(got[i:end], block[:end-i]) {
					t.Fatalf("from %s: other bytes arrived between %d and %d", from, i, end)
				}
			}
			writer.Close()
			reader.Close()
			close(release)
		}
	})
}
