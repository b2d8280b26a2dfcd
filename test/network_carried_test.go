package test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// neighbours are two members of the network "web". Their kernels carry connections between
// them.
type neighbours struct {
	*networks
	app, db *member
}

// newNeighbours makes members whose connections leave the bridge when --bulk says so.
func newNeighbours(t testing.TB, bulk string) *neighbours {
	t.Helper()
	n := &neighbours{networks: newNetworks(t)}
	n.join(t, bulk, bulk)
	return n
}

func (n *neighbours) join(t testing.TB, appBulk, dbBulk string) {
	t.Helper()
	n.db = n.run(t, "web", "db", "--bulk="+dbBulk)
	n.app = n.attach(t, "web", "app", newGuest(t).PID, "--bulk="+appBulk)
}

// joined is a connection between two members, with both of its ends: the one that asked for it
// comes first.
type joined struct {
	members [2]*member
	ends    [2]*net.TCPConn
}

// tryJoin connects, for a minute.
func tryJoin(t testing.TB, from, to *member, f family) (*joined, error) {
	l, err := to.Listen("tcp"+f.v, net.JoinHostPort(to.address(f), "0"))
	if err != nil {
		return nil, err
	}
	defer l.Close()
	c, err := from.Dial(timeout(t, deadline), "tcp"+f.v, l.Addr().String())
	if err != nil {
		return nil, err
	}
	s, err := l.Accept()
	if err != nil {
		c.Close()
		return nil, err
	}
	j := &joined{[2]*member{from, to}, [2]*net.TCPConn{c.(*net.TCPConn), s.(*net.TCPConn)}}
	return j, errors.Join(c.SetDeadline(time.Now().Add(time.Minute)), s.SetDeadline(time.Now().Add(time.Minute)))
}

// join connects, and closes both ends with the test.
func join(t testing.TB, from, to *member, f family) *joined {
	t.Helper()
	j := must(tryJoin(t, from, to, f))(t)
	t.Cleanup(j.close)
	return j
}

func (j *joined) close() {
	for _, c := range j.ends {
		c.Close()
	}
}

// ruled reports whether the kernel of one of its members has the rule that leads its segments
// to a socket.
func (j *joined) ruled(i int) (found bool, err error) {
	c := j.ends[i]
	from, to := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	af := unix.AF_INET
	if from.Addr().Is6() {
		af = unix.AF_INET6
	}
	err = j.members[i].Do(func() error {
		all, err := netlink.RuleList(af)
		found = slices.ContainsFunc(all, func(r netlink.Rule) bool {
			return r.Priority == 1 && r.Sport != nil && r.Sport.Start == from.Port() && r.Dport != nil && r.Dport.Start == to.Port() &&
				r.Src != nil && r.Src.IP.Equal(from.Addr().AsSlice())
		})
		return err
	})
	return found, err
}

// left is an error unless both members' kernels carry the connection.
func (j *joined) left() error {
	for i, m := range j.members {
		if found, err := j.ruled(i); err != nil || !found {
			return fmt.Errorf("the connection stays on the bridge: %s has no rule, %v", m.Name, err)
		}
	}
	return nil
}

// handOver returns when the connection has left the bridge.
func (j *joined) handOver(t testing.TB) *joined {
	t.Helper()
	eventually(t, deadline, func() error {
		// As much as a further attempt takes, should the first one fail. A long answer would be
		// on its way when the request has been taken, which may be when its sender is to pause.
		for range 4 {
			if err := errors.Join(j.send(0, 300_000), j.send(1, 1)); err != nil {
				t.Fatal(err)
			}
		}
		return j.left()
	})
	return j
}

// send has so many bytes come across from one end.
func (j *joined) send(from, size int) error {
	c, data := j.ends[from], random(uint64(from), size)
	sent := make(chan error, 1)
	if size <= 8<<10 {
		_, err := c.Write(data)
		sent <- err
	} else {
		go func() { _, err := c.Write(data); sent <- err }()
	}
	got := make([]byte, size)
	n, err := io.ReadFull(j.ends[1-from], got)
	if err != nil {
		c.SetWriteDeadline(time.Unix(1, 0))
	}
	if err = errors.Join(err, <-sent); err != nil || string(got) != string(data) {
		return fmt.Errorf("%d of %d bytes have come from end %d, or others: %w", n, size, from, err)
	}
	return nil
}

// exchange has a request of so many bytes come across, and an answer.
func (j *joined) exchange(size int) error {
	if err := j.send(0, size); err != nil {
		return err
	}
	return j.send(1, size)
}

// stream has both ends send so many bytes at once and compares checksums. last is the end that
// closes only when it has had all of the other's; -1: neither waits. sent is called when all is
// sent, before either closes; nil: they do not wait for each other.
func (j *joined) stream(seed uint64, sizes [2]int, last int, sent func()) error {
	var sums [2][]byte
	var all, writers sync.WaitGroup
	had := [2]chan struct{}{make(chan struct{}), make(chan struct{})} // all of the other's
	failed := make([]error, 4)
	fail := func(i int, err error) {
		if failed[i] = err; err != nil {
			j.close()
		}
	}
	writers.Add(2)
	mayClose := make(chan struct{})
	go func() {
		writers.Wait()
		if sent != nil {
			sent()
		}
		close(mayClose)
	}()
	for i, c := range j.ends {
		data := random(seed+uint64(i), sizes[i])
		sum := sha256.Sum256(data)
		sums[i] = sum[:]
		all.Go(func() {
			err := writeChunks(c, data, 100_000)
			writers.Done()
			if sent != nil {
				<-mayClose
			}
			if last == i {
				<-had[i]
			}
			fail(i, errors.Join(err, c.CloseWrite()))
		})
		all.Go(func() {
			defer close(had[i])
			h := sha256.New()
			n, err := io.Copy(h, c)
			all := sha256.Sum256(random(seed+uint64(1-i), sizes[1-i]))
			if err == nil && string(h.Sum(nil)) != string(all[:]) {
				err = fmt.Errorf("end %d has had %d bytes of %d, or others", i, n, sizes[1-i])
			}
			fail(2+i, err)
		})
	}
	all.Wait()
	<-mayClose
	return errors.Join(failed...)
}

// nothingLeft wants all that connections had, which have ended, to go: rules, and descriptors
// of the members' clients.
func (n *neighbours) nothingLeft(t testing.TB, before [2]harness.Usage) {
	t.Helper()
	noRules(t, n.app.Guest)
	noRules(t, n.db.Guest)
	for i, m := range []*member{n.app, n.db} {
		eventually(t, 2*deadline, func() error {
			now, err := m.helper.Usage()
			if now.FDs > before[i].FDs {
				err = fmt.Errorf("the client of %s has %d descriptors, %d before, %w", m.Name, now.FDs, before[i].FDs, err)
			}
			return err
		})
	}
}

func (n *neighbours) usage(t testing.TB) [2]harness.Usage {
	return [2]harness.Usage{n.app.usage(t), n.db.usage(t)}
}

// warmUp has a connection carried by either client, so that it has what it makes only once.
func (n *neighbours) warmUp(t testing.TB) (before [2]harness.Usage) {
	t.Helper()
	for _, j := range []*joined{join(t, n.app, n.db, families()[0]), join(t, n.db, n.app, families()[0])} {
		j.handOver(t).close()
	}
	n.nothingLeft(t, [2]harness.Usage{{FDs: 1000}, {FDs: 1000}})
	// Pipes in reserve go, too.
	var last [2]harness.Usage
	eventually(t, deadline, func() error {
		before = n.usage(t)
		if same := before[0].FDs == last[0].FDs && before[1].FDs == last[1].FDs; !same {
			last = before
			return fmt.Errorf("the clients' descriptors change: %+v", before)
		}
		return nil
	})
	return before
}

// TestN11_CarriedKeepsEveryByte: connections of all sizes that leave the bridge while both ends
// send lose nothing, whoever closes first, and leave nothing behind.
func TestN11_CarriedKeepsEveryByte(t *testing.T) {
	const single, atOnce = 120, 16
	for name, c := range map[string]struct {
		bulk string
		mtu  string
	}{
		"always": {"always", ""}, "auto": {"auto", ""}, "always, MTU 1500": {"always", "1500"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := &neighbours{networks: newNetworks(t)}
			if c.mtu != "" {
				n.do(t, "network", "create", "--mtu", c.mtu, "web")
			}
			n.join(t, c.bulk, c.bulk)
			before := n.warmUp(t)
			eachFamily(t, func(t *testing.T, f family) {
				var large, left atomic.Int32
				one := func(k int) error {
					r := rand.New(rand.NewPCG(uint64(k), 77))
					from, to := n.app, n.db
					if r.IntN(2) == 1 {
						from, to = to, from
					}
					j, err := tryJoin(t, from, to, f)
					if err != nil {
						return err
					}
					defer j.close()
					// From one byte to four megabytes.
					sizes := [2]int{r.IntN(1 << (1 + r.IntN(22))), r.IntN(1 << (1 + r.IntN(22)))}
					var sent func()
					if k%2 == 0 {
						sizes[r.IntN(2)] += 2 << 20
						large.Add(1)
						sent = func() {
							if harness.Eventually(time.Second, j.left) == nil {
								left.Add(1)
							}
						}
					}
					if err := j.stream(uint64(2*k), sizes, r.IntN(3)-1, sent); err != nil {
						return fmt.Errorf("%v from %s: %w", sizes, from.Name, err)
					}
					return nil
				}
				for k := range single {
					if err := one(k); err != nil {
						t.Fatalf("connection %d: %v", k, err)
					}
				}
				for round := range 4 {
					all(t, atOnce, func(i int) error { return one(single + round*atOnce + i) })
				}
				t.Logf("%d of %d large connections left the bridge", left.Load(), large.Load())
				if left.Load() < large.Load()/2 {
					t.Errorf("%d of %d large connections left the bridge", left.Load(), large.Load())
				}
				n.nothingLeft(t, before)
			})
		})
	}
}

// TestN11_CarriedExchanges: connections with requests and answers leave the bridge, and none
// waits for long while they do.
func TestN11_CarriedExchanges(t *testing.T) {
	for _, c := range []struct {
		bulk               string
		connections, times int
	}{{"never", 30, 40}, {"always", 30, 40}, {"auto", 10, 600}} {
		t.Run(c.bulk, func(t *testing.T) {
			n := newNeighbours(t, c.bulk)
			for _, size := range []int{1, 8 << 10} {
				eachFamily(t, func(t *testing.T, f family) {
					var slowest []time.Duration
					stayed := 0
					for k := range c.connections {
						j := must(tryJoin(t, n.app, n.db, f))(t)
						var most time.Duration
						for range c.times {
							begin := time.Now()
							if err := j.exchange(size); err != nil {
								t.Fatalf("connection %d: %v", k, err)
							}
							most = max(most, time.Since(begin))
						}
						slowest = append(slowest, most)
						if c.bulk != "never" && harness.Eventually(time.Second, j.left) != nil {
							stayed++
						}
						j.close()
					}
					slices.Sort(slowest)
					at := func(percent int) time.Duration { return slowest[(len(slowest)-1)*percent/100] }
					t.Logf("%d B over %s: the slowest exchange of a connection took %v in the median, 90%%: %v, 99%%: %v, most: %v", size, f.name, at(50), at(90), at(99), at(100))
					if stayed > c.connections/10 {
						t.Errorf("%d of %d connections stay on the bridge", stayed, c.connections)
					}
					// Who is to pause when the program sends does so for 200 ms (TCP_RTO_MIN).
					if late(t, at(100), time.Second) {
						t.Errorf("an exchange took %v", at(100))
					}
					noRules(t, n.app.Guest)
					noRules(t, n.db.Guest)
				})
			}
		})
	}
}

// TestN11_CarriedEnds: a connection that has left the bridge ends as any other: each direction
// by itself, or by a reset, by either end.
func TestN11_CarriedEnds(t *testing.T) {
	t.Parallel()
	n := newNeighbours(t, "always")
	before := n.warmUp(t)
	eachFamily(t, func(t *testing.T, f family) {
		for name, end := range map[string]func(first, second *net.TCPConn) error{"closes": halfCloses, "resets": resets} {
			for i := range 2 {
				j := join(t, n.app, n.db, f).handOver(t)
				if err := end(j.ends[i], j.ends[1-i]); err != nil {
					t.Errorf("%s %s first: %v", j.members[i].Name, name, err)
				}
				j.close()
				n.nothingLeft(t, before)
			}
		}
	})
}

// TestN11_CarriedUrgent: urgent data comes across in its place, as data.
func TestN11_CarriedUrgent(t *testing.T) {
	t.Parallel()
	n := newNeighbours(t, "always")
	eachFamily(t, func(t *testing.T, f family) {
		j := join(t, n.app, n.db, f).handOver(t)
		for i, c := range j.ends {
			if err := onFD(j.ends[1-i], func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				err := errors.Join(writes(c, "before"), onFD(c, func(fd int) error { return unix.Send(fd, []byte("!"), unix.MSG_OOB) }), writes(c, "after"))
				got := make([]byte, len("before!after"))
				if _, readErr := io.ReadFull(j.ends[1-i], got); err != nil || readErr != nil || string(got) != "before!after" {
					t.Fatalf("%q came, %v, %v", got, err, readErr)
				}
			}
		}
		if err := errors.Join(j.exchange(100_000), j.left()); err != nil {
			t.Error(err)
		}
	})
}

func writes(c *net.TCPConn, text string) error {
	_, err := c.Write([]byte(text))
	return err
}

// onFD calls f with a connection's descriptor.
func onFD(c *net.TCPConn, f func(fd int) error) (err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(failed, err)
}

// TestN11_CarriedIdle: keepalive probes of a connection that has left the bridge and is idle are
// answered, by either end's neighbour.
func TestN11_CarriedIdle(t *testing.T) {
	t.Parallel()
	n := newNeighbours(t, "always")
	eachFamily(t, func(t *testing.T, f family) {
		j := join(t, n.app, n.db, f).handOver(t)
		for i, c := range j.ends {
			if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}); err != nil {
				t.Fatal(err)
			}
			info := func() (info *unix.TCPInfo) {
				if err := onFD(c, func(fd int) (err error) {
					info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
					return err
				}); err != nil {
					t.Fatal(err)
				}
				return info
			}
			before := info().Segs_in
			eventually(t, deadline, func() error {
				if now := info(); now.Segs_in < before+3 {
					return fmt.Errorf("%d segments have come to end %d, %d before", now.Segs_in, i, before)
				}
				return nil
			})
		}
		if err := errors.Join(j.exchange(100_000), j.left()); err != nil {
			t.Error(err)
		}
	})
}
