package test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

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
