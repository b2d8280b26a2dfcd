package test

import (
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// envElsewhere makes the test program a server of its own: see echoElsewhere.
const envElsewhere = "EPIPHYTE_TEST_ECHO"

// serveElsewhere is serveTCP with echoTCP in another process, whose descriptors are not
// ours, so that as many connections can be had as we have descriptors.
func serveElsewhere(t testing.TB, ns *harness.NetNS, network, addr string) net.Addr {
	t.Helper()
	l := must(ns.Listen(network, addr))(t)
	defer l.Close()
	socket := must(l.(*net.TCPListener).File())(t)
	defer socket.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envElsewhere+"=1")
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stderr = os.Stderr
	hold := must(cmd.StdinPipe())(t)
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hold.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server elsewhere: %v", err)
		}
	})
	return l.Addr()
}

// echoElsewhere serves the listener that is descriptor 3 until standard input ends.
func echoElsewhere() error {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, 64); ; { // thousands of larger ones are too much
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// TestB16_TenThousandAtOnce each get their own bytes back, as far as the limit of
// descriptors allows so many.
func TestB16_TenThousandAtOnce(t *testing.T) {
	ours(t, "room for 10 000 connections in its descriptor limit")
	const total, others = 10_000, 500
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < total+others {
		t.Skipf("%d connections and %d other descriptors do not fit the hard limit of %d (ulimit -Hn)", total, others, limit.Max)
	}
	alone(t, func(t *testing.T, w *world, f family) {
		addr := serveElsewhere(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"))
		before := w.usage(t)
		begin := time.Now()
		w.manyConnections(t, f, hostPort(f.server, addr), total)
		t.Logf("%d connections opened, used and closed in %v", total, time.Since(begin).Round(time.Millisecond))
		w.backTo(t, before, 320<<20)
	})
}
