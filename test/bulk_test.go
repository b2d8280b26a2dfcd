package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// carriedBy is how many connections a program has handed over to the guest's kernel.
func carriedBy(t testing.TB, socket string) int {
	t.Helper()
	return stat(t, socket, "connections_carried")
}

// stat is one of a program's statistics.
func stat(t testing.TB, socket, name string) (n int) {
	t.Helper()
	h := startClient(t, "stats", "--json", "--http-socket", socket)
	if code, _, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Fatalf("stats: %d, %v: %s", code, err, h.Stderr)
	}
	var all map[string]json.RawMessage
	err := json.Unmarshal([]byte(h.Stdout.String()), &all)
	if err == nil {
		err = json.Unmarshal(all[name], &n)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, h.Stdout)
	}
	return n
}

// onDevice are flags of a test that says why its connections must stay on the device, also
// where EPIPHYTE_FLAGS has those of all others leave it.
func onDevice() []string {
	if !env.Product {
		return nil
	}
	return []string{"--bulk=never"}
}

// bulkWorld is a guest whose connections are handed over as soon as they can be.
func bulkWorld(t testing.TB, flags ...string) (*world, func() int) {
	t.Helper()
	return bulkWorldAt(t, filepath.Join(t.TempDir(), "http"), flags...)
}

func bulkWorldAt(t testing.TB, socket string, flags ...string) (*world, func() int) {
	t.Helper()
	ours(t, "--bulk")
	oneQueue(t)
	w := serve(t, append(flags, "--bulk=always", "--http-socket="+socket)...)
	return w, func() int { return carriedBy(t, socket) }
}

// handOver connects from the guest and returns when the connection has left the device.
func handOver(t testing.TB, w *world, carried func() int, network, to string) *net.TCPConn {
	t.Helper()
	before := carried()
	c := w.dial(t, network, to).(*net.TCPConn)
	eventually(t, deadline, func() error {
		if carried() == before {
			return errors.New("the connection stays on the device")
		}
		return nil
	})
	return c
}

// rules are those of the guest's for single connections.
func rulesOf(g *harness.Guest) (some []string, err error) {
	err = g.Do(func() error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			all, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range all {
				if r.Sport != nil {
					some = append(some, r.String())
				}
			}
		}
		return nil
	})
	return some, err
}

// noRules wants the rules of connections that have ended to go.
func noRules(t testing.TB, g *harness.Guest) {
	t.Helper()
	eventually(t, deadline, func() error {
		some, err := rulesOf(g)
		if err == nil && len(some) > 0 {
			err = fmt.Errorf("rules are left: %q", some)
		}
		return err
	})
}

// TestBulkKeepsEveryByte: connections that leave the device while both sides send at once
// lose nothing. BULK_COUNT is how many must leave for each MTU and family. Not all do, as on a
// busy machine there is seldom a moment in which nothing is in flight.
func TestBulkKeepsEveryByte(t *testing.T) {
	count := 50
	if n, err := strconv.Atoi(os.Getenv("BULK_COUNT")); err == nil {
		count = n
	}
	var left atomic.Int64
	t.Cleanup(func() { t.Logf("%d connections left the device in all", left.Load()) })
	for _, mtu := range []string{"65520", "1500"} {
		t.Run(mtu, func(t *testing.T) {
			t.Parallel()
			w, carried := bulkWorld(t, "--mtu="+mtu)
			eachFamily(t, func(t *testing.T, f family) {
				addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
				before, tried, n := carried(), 0, 0
				for n < count && tried < 20*count && !t.Failed() {
					var wg sync.WaitGroup
					for range 4 {
						first := tried
						tried += 5
						wg.Go(func() {
							for k := first; k < first+5; k++ {
								if err := w.echoesSlowly("tcp"+f.v, hostPort(f.server, addr), random(uint64(k), 1_500_000)); err != nil {
									t.Errorf("connection %d: %v", k, err)
									return
								}
							}
						})
					}
					wg.Wait()
					n = carried() - before
				}
				left.Add(int64(n))
				t.Logf("%d of %d connections left the device", n, tried)
				if n < count {
					t.Errorf("only %d of %d connections left the device", n, tried)
				}
				noRules(t, w.Guest)
			})
		})
	}
}

// echoesSlowly sends data in pieces, with a moment of quiet after the first as a client
// that waits for an answer has, and wants all of it back.
func (w *world) echoesSlowly(network, to string, data []byte) error {
	conn, err := w.DialWith(context.Background(), net.Dialer{Timeout: deadline}, network, to)
	if err != nil {
		return err
	}
	c := conn.(*net.TCPConn)
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * deadline)); err != nil {
		return err
	}
	if err := echoes(c, string(data[:1000])); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		err := writeChunks(c, data[1000:], 100_000)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, data[1000:]) {
		return fmt.Errorf("%d bytes came back of %d, or others", len(got), len(data)-1000)
	}
	return nil
}

// TestBulkLeavesTheDevice: what a connection moves once it has been handed over does not
// cross the device, and is counted as the connection's.
func TestBulkLeavesTheDevice(t *testing.T) {
	t.Parallel()
	w, carried := bulkWorld(t)
	eachFamily(t, func(t *testing.T, f family) {
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		c := handOver(t, w, carried, "tcp"+f.v, hostPort(f.server, addr))
		before := received(t, w)
		if err := echoes(c, strings.Repeat("x", 100_000)); err != nil {
			t.Fatal(err)
		}
		if n := received(t, w) - before; n > 10_000 {
			t.Errorf("%d bytes came by the device", n)
		}
		if some, err := rulesOf(w.Guest); len(some) != 1 || err != nil {
			t.Errorf("rules: %q, %v", some, err)
		}
		c.Close()
		noRules(t, w.Guest)
	})
}

// TestBulkRulesFlushed: a guest that removes rules that it does not know keeps its connections.
func TestBulkRulesFlushed(t *testing.T) {
	t.Parallel()
	w, carried := bulkWorld(t)
	eachFamily(t, func(t *testing.T, f family) {
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		c := handOver(t, w, carried, "tcp"+f.v, hostPort(f.server, addr))
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := w.Do(func() error {
				all, err := netlink.RuleList(f.af)
				for _, r := range all {
					if r.Sport != nil {
						err = errors.Join(err, netlink.RuleDel(&r))
					}
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := echoes(c, strings.Repeat("x", 100_000)); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		noRules(t, w.Guest)
	})
}

// TestBulkLeavesOthersAlone: a program that is bound to the device could not be reached by
// another way.
func TestBulkLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	w, carried := bulkWorld(t)
	eachFamily(t, func(t *testing.T, f family) {
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		before := carried()
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
			failed := c.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, tapName) })
			return errors.Join(failed, err)
		}}
		c := must(w.DialWith(timeout(t, deadline), d, "tcp"+f.v, hostPort(f.server, addr)))(t)
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := echoes(c, strings.Repeat("x", 200_000)); err != nil {
				t.Fatal(err)
			}
		}
		if n := carried() - before; n > 0 {
			t.Errorf("%d connections left the device", n)
		}
	})
}

// TestBulkWaitsForCaptures: whoever captures a connection sees it whole.
func TestBulkWaitsForCaptures(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "capture")
	w, carried := bulkWorld(t, "--pcap="+file)
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.NetIPv4, "0"), echoTCP)
	data := random(1, 4<<20)
	comesBack(t, w.dial(t, "tcp4", hostPort(harness.NetIPv4, addr)), data)
	if n := carried(); n > 0 {
		t.Errorf("%d connections left the device", n)
	}
	eventually(t, deadline, func() error {
		info, err := os.Stat(file)
		if err == nil && info.Size() < int64(2*len(data)) {
			err = fmt.Errorf("the capture has %d bytes of the %d", info.Size(), 2*len(data))
		}
		return err
	})
}

// TestBulkWithoutPorts: it takes no option, no control socket and no published port, and the
// guest's routing is as the kernel has it but for connections that have left.
func TestBulkWithoutPorts(t *testing.T) {
	t.Parallel()
	ours(t, "--bulk")
	oneQueue(t)
	w := serve(t)
	onlyKernels := func() error {
		return w.Do(func() error {
			all, err := netlink.RuleList(netlink.FAMILY_ALL)
			for _, r := range all {
				if r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_DEFAULT {
					err = errors.Join(err, fmt.Errorf("the guest has the rule %v", r))
				}
			}
			return err
		})
	}
	if err := onlyKernels(); err != nil {
		t.Error(err)
	}
	eachFamily(t, func(t *testing.T, f family) {
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP)
		c := w.dial(t, "tcp"+f.v, hostPort(f.server, addr))
		data := strings.Repeat("x", 100_000)
		eventually(t, deadline, func() error {
			err := echoes(c, data)
			if some, errRules := rulesOf(w.Guest); err == nil && len(some) == 0 {
				err = fmt.Errorf("the connection stays on the device: %v", errRules)
			}
			return err
		})
		if err := echoes(c, data); err != nil {
			t.Error(err)
		}
		c.Close()
		eventually(t, deadline, onlyKernels)
	})
}

// TestBulkOfSmallPieces: so does a connection that moves little, but often. One that is used
// now and then stays, and half the room is left for those that move much.
func TestBulkOfSmallPieces(t *testing.T) {
	t.Parallel()
	ours(t, "--bulk")
	oneQueue(t)
	const (
		files = 300
		most  = (files - 24) / 32 // see TestBulkLimit
	)
	socket := filepath.Join(t.TempDir(), "http")
	w := serveWith(t, harness.HelperConfig{Wrap: []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files)}},
		"--bulk=auto", "--http-socket="+socket)
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.NetIPv4, "0"), echoTCP)
	exchange := func(c net.Conn, times int, size int) {
		t.Helper()
		for range times {
			if err := echoes(c, strings.Repeat("x", size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	exchange(w.dial(t, "tcp4", hostPort(harness.NetIPv4, addr)), 20, 1)
	if n := carriedBy(t, socket); n != 0 {
		t.Errorf("a connection has left the device after 20 exchanges")
	}
	var conns []net.Conn
	for range most {
		conns = append(conns, w.dial(t, "tcp4", hostPort(harness.NetIPv4, addr)))
	}
	eventually(t, deadline, func() error {
		for _, c := range conns {
			exchange(c, 1000, 1)
		}
		if n := carriedBy(t, socket); n < most/2 {
			return fmt.Errorf("%d connections have left the device, want %d", n, most/2)
		}
		return nil
	})
	for _, c := range conns {
		exchange(c, 1000, 1)
	}
	if n := carriedBy(t, socket); n > most/2 {
		t.Errorf("%d connections have left the device, want %d at most", n, most/2)
	}
	last := conns[most-1]
	eventually(t, deadline, func() error {
		exchange(last, 100, 100_000)
		if n := carriedBy(t, socket); n == most/2 {
			return errors.New("there is no room for one that moves much")
		}
		return nil
	})
}

// TestBulkEnds: a connection that was handed over ends as any other: each direction by
// itself, or by a reset of either side.
func TestBulkEnds(t *testing.T) {
	t.Parallel()
	w, carried := bulkWorld(t)
	eachFamily(t, func(t *testing.T, f family) {
		accepted := make(chan *net.TCPConn, 1)
		release := make(chan struct{})
		addr := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), func(c *net.TCPConn) {
			accepted <- c
			<-release
		})
		defer close(release)
		for name, end := range map[string]func(guest, server *net.TCPConn) error{
			"guest closes first":  halfCloses,
			"server closes first": func(guest, server *net.TCPConn) error { return halfCloses(server, guest) },
			"guest resets":        resets,
			"server resets":       func(guest, server *net.TCPConn) error { return resets(server, guest) },
		} {
			guest := handOver(t, w, carried, "tcp"+f.v, hostPort(f.server, addr))
			server := <-accepted
			for _, c := range []net.Conn{guest, server} {
				if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
					t.Fatal(err)
				}
			}
			if err := end(guest, server); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			guest.Close()
			server.Close()
			noRules(t, w.Guest)
		}
	})
}

// halfCloses has one side close its direction, and the other answer after that.
func halfCloses(first, second *net.TCPConn) error {
	if err := first.CloseWrite(); err != nil {
		return err
	}
	if b, err := io.ReadAll(second); len(b) > 0 || err != nil {
		return fmt.Errorf("the end of the stream came as %q, %v", b, err)
	}
	if _, err := second.Write([]byte("still here")); err != nil {
		return err
	}
	if err := second.CloseWrite(); err != nil {
		return err
	}
	if b, err := io.ReadAll(first); string(b) != "still here" || err != nil {
		return fmt.Errorf("the other direction came as %q, %v", b, err)
	}
	return nil
}

// resets has one side reset the connection.
func resets(first, second *net.TCPConn) error {
	if err := errors.Join(first.SetLinger(0), first.Close()); err != nil {
		return err
	}
	if b, err := io.ReadAll(second); !isErrno(err, unix.ECONNRESET) {
		return fmt.Errorf("the reset came as %q, %v", b, err)
	}
	return nil
}

// TestBulkProgramKilled: the guest sees a reset, not an end of the stream, when the program
// that carried its connection is killed.
func TestBulkProgramKilled(t *testing.T) {
	t.Parallel()
	w, carried := bulkWorld(t)
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.NetIPv4, "0"), echoTCP)
	c := handOver(t, w, carried, "tcp4", hostPort(harness.NetIPv4, addr))
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	w.helper.Kill()
	if b, err := io.ReadAll(c); !isErrno(err, unix.ECONNRESET) {
		t.Errorf("the end came as %q, %v", b, err)
	}
}

// TestBulkAgentKilled: connections that were handed over go on without the agent, and new
// ones by the device.
func TestBulkAgentKilled(t *testing.T) {
	t.Parallel()
	w, carried := bulkWorld(t)
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.NetIPv4, "0"), echoTCP)
	to := hostPort(harness.NetIPv4, addr)
	old := handOver(t, w, carried, "tcp4", to)
	if err := unix.Kill(agentOf(t, w.helper), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{old, w.dial(t, "tcp4", to), w.dial(t, "tcp4", to)} {
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		if err := echoes(c, strings.Repeat("x", 100_000)); err != nil {
			t.Error(err)
		}
	}
}

// TestBulkAgentStopped: while the agent does not answer, connections go on by the device.
func TestBulkAgentStopped(t *testing.T) {
	t.Parallel()
	w, _ := bulkWorld(t)
	addr := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(harness.NetIPv4, "0"), echoTCP)
	agent := agentOf(t, w.helper)
	if err := unix.Kill(agent, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() { _ = unix.Kill(agent, unix.SIGCONT) }
	t.Cleanup(goOn)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := w.echoesSlowly("tcp4", hostPort(harness.NetIPv4, addr), random(uint64(i), 1_500_000)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	goOn()
	noRules(t, w.Guest)
}

// TestBulkLeftRules: what a program that was killed has left is removed, and rules of others
// stay.
func TestBulkLeftRules(t *testing.T) {
	t.Parallel()
	ours(t, "--bulk")
	oneQueue(t)
	g := newGuest(t)
	const left, others = 7, 9
	if err := g.Do(func() (err error) {
		for port, origin := range map[uint16]uint8{left: 0xe9, others: 0} {
			r := netlink.NewRule()
			r.Priority, r.IPProto, r.Table, r.Protocol = 1, unix.IPPROTO_TCP, unix.RT_TABLE_MAIN, origin
			r.Sport = netlink.NewRulePortRange(port, port)
			err = errors.Join(err, netlink.RuleAdd(r))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	attach(t, g, harness.HelperConfig{}, "--bulk=always", "--http-socket="+filepath.Join(t.TempDir(), "http"))
	var kept []uint16
	if err := g.Do(func() error {
		all, err := netlink.RuleList(unix.AF_INET)
		for _, r := range all {
			if r.Sport != nil {
				kept = append(kept, r.Sport.Start)
			}
		}
		return err
	}); err != nil || !slices.Equal(kept, []uint16{others}) {
		t.Errorf("rules of ports %v are kept, want that of %d; %v", kept, others, err)
	}
}
