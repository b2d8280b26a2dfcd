package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"epiphyte/internal/api"
	"epiphyte/test/harness"
)

// workerStats is what a helper with several queues says of each, by its number.
type workerStats struct {
	Frames      map[string]int `json:"worker_frames"`
	Handed      map[string]int `json:"worker_handed_frames"`
	Lost        map[string]int `json:"worker_lost_frames"`
	Connections map[string]int `json:"worker_tcp_connections"`
}

// workersOf asks a helper by its HTTP socket.
func workersOf(t testing.TB, socket string) (s workerStats) {
	t.Helper()
	doc := must((&api.Client{HTTP: socket}).Document(timeout(t, deadline), api.StatsDocument))(t)
	if err := json.Unmarshal(doc, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

// echoesWhole sends data by a connection and wants it back, both at once.
func echoesWhole(c net.Conn, data []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		if err == nil {
			err = c.(*net.TCPConn).CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(c)
	if err := <-sent; err != nil {
		return err
	}
	if err != nil || string(got) != string(data) {
		return fmt.Errorf("%d bytes came back for %d, or other ones: %w", len(got), len(data), err)
	}
	return nil
}

// all runs f for each number below n at once and reports what fails.
func all(t testing.TB, n int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(i); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// TestQueues_WorkIsPinned: with several queues every worker carries its share of
// the connections and of the datagrams, whole, and what the guest sends comes by
// the queue of the worker that it belongs to, but for beginnings.
func TestQueues_WorkIsPinned(t *testing.T) {
	ours(t, "--queues")
	for _, workers := range []int{2, 4} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "http")
			w := serve(t, fmt.Sprintf("--queues=%d", workers), "--http-socket="+socket)
			if got := w.link(t).Queues; got != workers {
				t.Fatalf("the TAP has %d queues", got)
			}
			const flows, rounds = 48, 20
			eachFamily(t, func(t *testing.T, f family) {
				tcp := serveTCP(t, env.Net.Net, "tcp"+f.v, net.JoinHostPort(f.server, "0"), echoTCP).String()
				udp := servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(f.server, "0"), echoPacket).LocalAddr().String()
				all(t, flows, func(i int) error {
					c, err := w.Dial(timeout(t, deadline), "tcp"+f.v, tcp)
					if err != nil {
						return err
					}
					defer c.Close()
					if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
						return err
					}
					return echoesWhole(c, random(uint64(i), 300_000))
				})
				all(t, flows, func(i int) error {
					c, err := w.Dial(timeout(t, deadline), "udp"+f.v, udp)
					if err != nil {
						return err
					}
					defer c.Close()
					for round := range rounds {
						if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
							return err
						}
						if err := says(c, string(random(uint64(i*rounds+round), 1000))); err != nil {
							return err
						}
					}
					return nil
				})
			})
			s := workersOf(t, socket)
			if len(s.Connections) != workers || sum(s.Connections) != 2*flows || sum(s.Lost) > 0 {
				t.Errorf("%d workers had %+v", workers, s)
			}
			for i := range workers {
				worker := fmt.Sprint(i)
				if s.Connections[worker] < flows/workers/2 || s.Frames[worker] < flows*rounds/workers/2 {
					t.Errorf("worker %d of %d had too little: %+v", i, workers, s)
				}
			}
			if handed, own := sum(s.Handed), sum(s.Frames); handed == 0 || handed > own/4 {
				t.Errorf("%d frames were handed over, %d were not", handed, own)
			}
		})
	}
}

// TestQueues_IdleFlowsGoOn: the kernel forgets after 3 s, at most 6, by which queue
// a flow was answered. What comes by another one then still reaches its flow.
func TestQueues_IdleFlowsGoOn(t *testing.T) {
	ours(t, "--queues")
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "http")
	w := serve(t, "--queues=4", "--http-socket="+socket)
	f := families()[0]
	tcp := serveTCP(t, env.Net.Net, "tcp4", net.JoinHostPort(f.server, "0"), echoTCP).String()
	udp := servePacket(t, env.Net.Net, "udp4", net.JoinHostPort(f.server, "0"), echoPacket).LocalAddr().String()
	var flows []net.Conn
	for range 16 {
		flows = append(flows, w.dial(t, "tcp4", tcp), w.dial(t, "udp4", udp))
	}
	exchange := func() int {
		before := sum(workersOf(t, socket).Handed)
		for _, c := range flows {
			if err := says(c, "hello"); err != nil {
				t.Fatalf("%v: %v", c.LocalAddr(), err)
			}
		}
		return sum(workersOf(t, socket).Handed) - before
	}
	exchange()
	fresh := exchange()
	<-time.After(7 * time.Second)
	if idle := exchange(); idle <= fresh {
		t.Errorf("%d frames were handed over after a rest, and %d before: the kernel has not forgotten", idle, fresh)
	}
}

// TestB21_OneMappingWithQueues: one socket of the guest is one port of the host,
// whatever the destination, and whether or not its datagrams come in fragments.
func TestB21_OneMappingWithQueues(t *testing.T) {
	t.Parallel()
	ours(t, "--queues")
	w := serve(t, "--queues=4", "--mtu=1500")
	eachFamily(t, func(t *testing.T, f family) {
		var to []net.Addr
		whoAmI := func(_ []byte, from net.Addr) []byte { return []byte(from.String()) }
		for _, addr := range []string{f.server, f.other, f.server, f.other} {
			to = append(to, servePacket(t, env.Net.Net, "udp"+f.v, net.JoinHostPort(addr, "0"), whoAmI).LocalAddr())
		}
		for range 16 {
			c := w.listenPacket(t, f)
			seen := map[string]bool{}
			for i, size := range []int{10, 4000, 10, 4000, 2000, 10, 30000, 10} {
				if _, err := c.WriteTo(random(1, size), to[i%len(to)]); err != nil {
					t.Fatal(err)
				}
				b, from, err := receive(c, deadline)
				if err != nil || from.String() != to[i%len(to)].String() {
					t.Fatalf("%d bytes to %v: answered by %v, %v", size, to[i%len(to)], from, err)
				}
				seen[string(b)] = true
			}
			if len(seen) != 1 {
				t.Errorf("%v is %v on the host", c.LocalAddr(), seen)
			}
		}
	})
}

// TestB31_PublishedWithQueues: clients come by the stack path with their own
// addresses and ports, many at once, whatever worker their ports would lead to.
func TestB31_PublishedWithQueues(t *testing.T) {
	t.Parallel()
	w := published(t, "18031", "", "--publish-mode=stack", "--queues=4")
	eachFamily(t, func(t *testing.T, f family) {
		serveTCP(t, w.NetNS, "tcp"+f.v, f.anyHost()+":"+guestPort, func(c *net.TCPConn) {
			fmt.Fprintln(c, c.RemoteAddr())
			echoTCP(c)
		})
		all(t, 48, func(i int) error {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(f.server)}}
			c, err := env.Net.Net.DialWith(timeout(t, deadline), d, "tcp"+f.v, net.JoinHostPort(f.host(), "18031"))
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				return err
			}
			hello := c.LocalAddr().String() + "\n"
			b := make([]byte, len(hello))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != hello {
				return fmt.Errorf("%q saw %q: %w", hello, b, err)
			}
			return echoesWhole(c, random(uint64(i), 200_000))
		})
	})
}

// TestQueues_ForeignTAP: a TAP that somebody made with one queue is refused in one
// line, and left as it was; one made for several is taken.
func TestQueues_ForeignTAP(t *testing.T) {
	ours(t, "--queues")
	for _, several := range []bool{false, true} {
		t.Run(fmt.Sprint(several), func(t *testing.T) {
			g := newGuest(t)
			if err := g.Do(func() error { return addTAP(several) }); err != nil {
				t.Fatal(err)
			}
			h, err := env.Start(timeout(t, deadline), harness.HelperConfig{
				Args: []string{"--queues=2", "-c", "-r", harness.ReadyFD, fmt.Sprint(g.PID), tapName},
			})
			if several {
				if err != nil {
					t.Fatal(err)
				}
				defer h.Kill()
				w := &world{Guest: g, helper: h}
				if got := w.link(t).Queues; got != 2 {
					t.Errorf("the TAP has %d queues", got)
				}
				addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP)
				for range 8 {
					if err := says(w.dial(t, "tcp4", addr.String()), "hello"); err != nil {
						t.Error(err)
					}
				}
				return
			}
			if err == nil {
				h.Kill()
				t.Fatal("a TAP with one queue is served with two")
			}
			if text := err.Error(); strings.Count(text, "\n") > 0 || !strings.Contains(text, "multi_queue") {
				t.Errorf("the refusal is %q", text)
			}
			if links, err := g.Links(); err != nil || len(links) != 1 {
				t.Errorf("links after the refusal: %v, %v", links, err)
			}
		})
	}
}

// addTAP makes a persistent TAP in this thread's namespace.
func addTAP(several bool) error {
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: tapName}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI,
		Owner: uint32(os.Getuid()), Group: uint32(os.Getgid()),
	}
	if several {
		tap.Flags |= netlink.TUNTAP_MULTI_QUEUE
		tap.Queues = 1
	}
	err := netlink.LinkAdd(tap)
	for _, f := range tap.Fds {
		f.Close()
	}
	return err
}

// TestB8_QueuesRest: a helper with several queues, all of which have carried
// something, is as quiet at rest as one with one.
func TestB8_QueuesRest(t *testing.T) {
	t.Parallel()
	ours(t, "--queues")
	w := serve(t, "--queues=4")
	addr := serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP).String()
	all(t, 64, func(i int) error {
		c, err := w.Dial(timeout(t, deadline), "tcp4", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			return err
		}
		return echoesWhole(c, random(uint64(i), 100_000))
	})
	// After TIME-WAIT of the connections, and what is tidied up seconds later.
	eventually(t, 30*time.Second, func() error {
		const idle = 3 * time.Second
		before, switches := w.usage(t), must(harness.SwitchesOf(w.helper.PID))(t)
		<-time.After(idle)
		cpu, switched := w.usage(t).CPU-before.CPU, must(harness.SwitchesOf(w.helper.PID))(t)-switches
		if cpu > idle/300 || float64(switched) > idle.Seconds() {
			return fmt.Errorf("%v of CPU time and %d wake-ups in %v of doing nothing", cpu, switched, idle)
		}
		return nil
	})
}

// TestQueues_HoldLittle: a worker more is a few descriptors and little memory.
func TestQueues_HoldLittle(t *testing.T) {
	ours(t, "--queues")
	usage := func(flags ...string) harness.Usage {
		w := serve(t, flags...)
		// Neighbours are resolved, and the IPv6 address is announced, before.
		w.dial(t, "tcp4", serveTCP(t, env.Net.Net, "tcp4", harness.NetIPv4+":0", echoTCP).String()).Close()
		return w.usage(t)
	}
	one, four := usage("--queues=1"), usage("--queues=4")
	// A queue, an epoll instance and its eventfd.
	if got, want := four.FDs-one.FDs, 3*3; got > want+runtimePoller {
		t.Errorf("three workers more hold %d descriptors more, want %d", got, want)
	}
	if got := four.RSS - one.RSS; got > 3*4<<20 {
		t.Errorf("three workers more take %d bytes more", got)
	}
}
