package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/internal/addressing"
	"epiphyte/test/harness"
)

// crowd is a network of many members, and the processes that serve it.
type crowd struct {
	cfg       harness.HelperConfig
	members   []*harness.Guest
	addresses []netip.Addr
	served    []*harness.Helper // keeper and worker
}

const (
	crowdName   = "many"
	crowdSubnet = "10.90.90.0/24"
	// crowdInterface is each member's.
	crowdInterface = "eth0"
)

// newCrowd starts a network without members.
func newCrowd(t *testing.T) *crowd {
	t.Helper()
	ours(t, "networks")
	dir := must(os.MkdirTemp("", "many-"))(t) // not t.TempDir, whose paths are too long for those of sockets
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &crowd{cfg: harness.HelperConfig{Env: []string{"XDG_RUNTIME_DIR=" + dir, "XDG_CONFIG_HOME=" + dir}, NoWait: true, Plain: true}}
	c.run(t, "network", "create", "--subnet="+crowdSubnet, crowdName)
	keeper := c.start(t, "network", "serve", "--stay", crowdName)
	eventually(t, deadline, func() error {
		if keeper.Stdout.String() == "" {
			return errors.New("not served yet")
		}
		return nil
	})
	var info struct {
		Worker int `json:"worker_pid"`
	}
	if err := json.Unmarshal([]byte(c.run(t, "network", "inspect", "--json", crowdName)), &info); err != nil {
		t.Fatal(err)
	}
	c.served = []*harness.Helper{keeper, {PID: info.Worker}}
	return c
}

// start starts the program with the crowd's directories.
func (c *crowd) start(t *testing.T, args ...string) *harness.Helper {
	t.Helper()
	cfg := c.cfg
	cfg.Args = args
	h := must(env.Start(t.Context(), cfg))(t)
	t.Cleanup(h.Kill)
	return h
}

// run runs the program to its end and returns what it has written.
func (c *crowd) run(t *testing.T, args ...string) string {
	t.Helper()
	h := c.start(t, args...)
	if code, _, err := h.Exit(timeout(t, deadline)); code != 0 || err != nil {
		t.Fatalf("%q: exit status %d, %v: %s", args, code, err, h.Stderr)
	}
	h.Kill() // closes what is ours of it
	return h.Stdout.String()
}

// grow adds members until there are n.
func (c *crowd) grow(t *testing.T, n int) {
	t.Helper()
	for i := len(c.members); i < n; i++ {
		g, a := newGuest(t), netip.MustParsePrefix(crowdSubnet).Addr().As4()
		a[3] = byte(2 + i)
		addr := netip.AddrFrom4(a)
		c.run(t, "network", "connect", "--name=m"+strconv.Itoa(i), "--ip="+addr.String(), crowdName, strconv.Itoa(g.PID))
		c.members, c.addresses = append(c.members, g), append(c.addresses, addr)
	}
}

// introduce tells each member's kernel where the others are. The table of those that it
// finds by asking has room for 1024 in all namespaces of a machine (gc_thresh3 of arp(7)),
// and a kernel without room does not even answer.
func (c *crowd) introduce(t *testing.T) {
	t.Helper()
	for _, g := range c.members {
		index, own, err := g.Hardware(crowdInterface)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Do(func() error {
			for _, a := range c.addresses {
				mac := addressing.MemberHardwareAddr(a)
				if bytes.Equal(mac[:], own) {
					continue
				}
				if err := netlink.NeighSet(&netlink.Neigh{
					LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac[:],
				}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// memory is what the network's processes have, resident.
func (c *crowd) memory(t *testing.T) (sum int64) {
	t.Helper()
	for _, h := range c.served {
		sum += must(h.Usage())(t).RSS
	}
	return sum
}

// TestNetworkManyMembers is about fifty of them.
func TestNetworkManyMembers(t *testing.T) {
	t.Parallel()
	const members = 50
	c := newCrowd(t)
	c.grow(t, 1)
	before := c.memory(t)
	c.grow(t, members)
	t.Run("B8_Rest", func(t *testing.T) {
		const most = 300 << 10
		c.rests(t)
		each := (c.memory(t) - before) / (members - 1)
		t.Logf("%d kB with one member, %d kB for each more", before>>10, each>>10)
		if each > most {
			t.Errorf("a member takes %d kB, want %d at most", each>>10, most>>10)
		}
	})
	t.Run("AllToAll", func(t *testing.T) {
		c.introduce(t)
		c.exchange(t)
		c.rests(t)
	})
}

// rests waits until the network's processes take no CPU time and are not woken. The
// members' kernels have said by then what they say when an interface comes up.
func (c *crowd) rests(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		for _, h := range c.served {
			if err := rests(t, h.PID, 3*time.Second); err != nil {
				return fmt.Errorf("process %d: %w", h.PID, err)
			}
		}
		return nil
	})
}

// exchange has every member send to every other, all at once, and get it back.
func (c *crowd) exchange(t *testing.T) {
	t.Helper()
	const size = 32 << 10
	n := len(c.members)
	if all := n * (n - 1); descriptorRoom(t, all) < all {
		t.Skipf("%d connections at once need more descriptors than there may be (ulimit -Hn)", all)
	}
	var servers []string
	for _, g := range c.members {
		servers = append(servers, port(serveTCP(t, g.NetNS, "tcp4", "0.0.0.0:0", echoTCP)))
	}
	sent := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(sent)
	type pair struct {
		*net.TCPConn
		from, to int
	}
	var pairs []pair
	for from, g := range c.members {
		for to := range n {
			if to == from {
				continue
			}
			conn, err := g.Dial(timeout(t, time.Minute), "tcp4", net.JoinHostPort(c.addresses[to].String(), servers[to]))
			if err != nil {
				t.Fatalf("from %d to %d: %v", from, to, err)
			}
			t.Cleanup(func() { conn.Close() })
			pairs = append(pairs, pair{conn.(*net.TCPConn), from, to})
		}
	}
	var all sync.WaitGroup
	for _, p := range pairs {
		all.Go(func() {
			if err := echoed(p.TCPConn, sent); err != nil {
				t.Errorf("from %d to %d: %v", p.from, p.to, err)
			}
		})
	}
	all.Wait()
}

// echoed sends to a server that sends it back.
func echoed(c *net.TCPConn, sent []byte) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	var sending error
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, sending = c.Write(sent); sending == nil {
			sending = c.CloseWrite()
		}
	})
	got, err := io.ReadAll(c)
	wg.Wait()
	switch {
	case err != nil || sending != nil:
		return errors.Join(err, sending)
	case !bytes.Equal(got, sent):
		return fmt.Errorf("%d bytes of %d came back, or others", len(got), len(sent))
	}
	return nil
}
