package test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
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
