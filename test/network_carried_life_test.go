package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"epiphyte/test/harness"
)

// ended wants a member's end of a connection to be over, by a reset or an end of stream.
func (j *joined) ended(t testing.TB, i int) {
	t.Helper()
	if err := j.ends[i].SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(j.ends[i]); len(b) > 0 || err != nil && !isErrno(err, unix.ECONNRESET) {
		t.Errorf("the end came to %s as %d bytes, %v", j.members[i].Name, len(b), err)
	}
}

// TestN11_CarriedMemberGoes: whichever member's client is killed, ends, or has the member removed
// from the network, the other member sees the end of the connection, and its rule goes.
func TestN11_CarriedMemberGoes(t *testing.T) {
	t.Parallel()
	ends := map[string]func(testing.TB, *neighbours, *member){
		"killed":       func(t testing.TB, _ *neighbours, m *member) { kill(t, m.helper.PID) },
		"SIGTERM":      func(_ testing.TB, _ *neighbours, m *member) { _ = m.helper.Signal(unix.SIGTERM) },
		"disconnected": func(t testing.TB, n *neighbours, m *member) { n.do(t, "network", "disconnect", "web", m.Name) },
	}
	for name, end := range ends {
		for i := range 2 { // the member whose client splices is the first one
			t.Run(fmt.Sprint(name, i), func(t *testing.T) {
				t.Parallel()
				n := newNeighbours(t, "always")
				stays := n.run(t, "web", "stays", "--bulk=always")
				var all, others []*joined
				for _, f := range families() {
					// db's guest ends with its client.
					j := join(t, n.app, n.db, f)
					if i == 1 {
						j = join(t, n.db, n.app, f)
					}
					all = append(all, j.handOver(t))
					others = append(others, join(t, n.db, stays, f).handOver(t))
				}
				end(t, n, n.app)
				for _, j := range all {
					j.ended(t, 1-i)
				}
				for _, j := range others {
					if err := errors.Join(j.exchange(100_000), j.left()); err != nil {
						t.Errorf("another connection: %v", err)
					}
					j.close()
				}
				noRules(t, n.db.Guest)
				noRules(t, stays.Guest)
				if name == "disconnected" {
					noRules(t, n.app.Guest)
					for _, j := range all {
						j.ended(t, i)
					}
				}
			})
		}
	}
}

// TestN11_CarriedIsolated: members that may not reach each other do not by --bulk, either.
func TestN11_CarriedIsolated(t *testing.T) {
	t.Parallel()
	n := &neighbours{networks: newNetworks(t)}
	n.do(t, "network", "create", "--isolate", "web")
	n.join(t, "always", "always")
	n.db.serveEcho(t)
	outside := newOutside(t)
	for _, f := range families() {
		if err := n.app.tryTCP(t, f, n.db.address(f), patience); err == nil {
			t.Errorf("a neighbour is reached over %s", f.name)
		}
		if err := n.app.tryTCP(t, f, outside.of(f), deadline); err != nil {
			t.Errorf("outside over %s: %v", f.name, err)
		}
	}
}

// TestN11_CarriedSurvives the end of the network's processes, and an upgrade: connections that
// have left the bridge go on meanwhile, those that end meanwhile leave no rule, and later ones
// leave the bridge as well.
func TestN11_CarriedSurvives(t *testing.T) {
	t.Parallel()
	for _, bulk := range []string{"auto", "always"} {
		for name, do := range map[string]func(testing.TB, *survives, shown){
			"worker":  func(t testing.TB, _ *survives, s shown) { kill(t, s.Worker) },
			"keeper":  func(t testing.TB, _ *survives, s shown) { kill(t, s.Keeper) },
			"upgrade": upgrade,
		} {
			t.Run(name+" "+bulk, func(t *testing.T) {
				t.Parallel()
				n := newNeighbours(t, bulk)
				var under, during []*joined
				for _, f := range families() {
					under = append(under, join(t, n.app, n.db, f).handOver(t), join(t, n.db, n.app, f).handOver(t))
					during = append(during, join(t, n.app, n.db, f).handOver(t), join(t, n.db, n.app, f).handOver(t))
				}
				before := n.inspect(t, "web")
				resume := make(chan struct{})
				done := make(chan error, len(under))
				for k, j := range under {
					go func() {
						// 32 MB each way, of which the last has to wait.
						done <- j.stream(uint64(k), [2]int{32 << 20, 32 << 20}, k%3-1, func() { <-resume })
					}()
				}
				do(t, &survives{networks: n.networks}, before)
				for k, j := range during {
					if err := j.exchange(1000); err != nil {
						t.Errorf("at once after the end: %v", err)
					}
					if k%2 == 0 {
						j.close()
					}
				}
				eventually(t, deadline, func() error {
					after, err := n.tryInspect(t, "web")
					if err == nil && (after.Worker == before.Worker || len(after.members) != 2) {
						err = fmt.Errorf("the network is %+v", after)
					}
					return err
				})
				close(resume)
				for range under {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				for k, j := range during {
					if k%2 == 1 {
						if err := errors.Join(j.exchange(100_000), j.left()); err != nil {
							t.Error(err)
						}
						j.close()
					}
				}
				for _, f := range families() {
					join(t, n.app, n.db, f).handOver(t).close()
					join(t, n.db, n.app, f).handOver(t).close()
				}
				noRules(t, n.app.Guest)
				noRules(t, n.db.Guest)
			})
		}
	}
}

// TestN11_CarriedEndsUnseen: rules of connections that end while there is no network's process
// that could be told go when there is one again.
func TestN11_CarriedEndsUnseen(t *testing.T) {
	t.Parallel()
	n := newNeighbours(t, "always")
	var all []*joined
	for _, f := range families() {
		all = append(all, join(t, n.app, n.db, f).handOver(t), join(t, n.db, n.app, f).handOver(t))
	}
	info := n.inspect(t, "web")
	if err := unix.Kill(info.Keeper, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() { _ = unix.Kill(info.Keeper, unix.SIGCONT) }
	t.Cleanup(goOn)
	kill(t, info.Worker)
	for i, j := range all {
		if err := j.exchange(100_000); err != nil {
			t.Error(err)
		}
		if i%2 == 0 {
			j.close()
			continue
		}
		if err := resets(j.ends[0], j.ends[1]); err != nil {
			t.Error(err)
		}
	}
	goOn()
	noRules(t, n.app.Guest)
	noRules(t, n.db.Guest)
	join(t, n.app, n.db, families()[0]).handOver(t)
}

// stays wants a connection to work, and not to leave the bridge: all of its bytes come by the
// device of its second member.
func (j *joined) stays(t testing.TB) {
	t.Helper()
	const size = 300_000
	before, sent := receivedBy(t, j.members[1].Guest, "eth0"), int64(0)
	// One that may leave has done so after this time: the first one finds out about lo.
	for begin := time.Now(); time.Since(begin) < 1500*time.Millisecond; sent += size {
		if err := errors.Join(j.send(0, size), j.send(1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := receivedBy(t, j.members[1].Guest, "eth0") - before; n < sent {
		t.Errorf("%d bytes of %d came by the device", n, sent)
	}
	if err := j.left(); err == nil {
		t.Error("the connection has left the bridge")
	}
	if err := j.stream(1, [2]int{1 << 20, 1 << 20}, -1, nil); err != nil {
		t.Error(err)
	}
}

// TestN11_CarriedNeedsLo: where a member's lo does not pass a connection's segments, it goes on
// by the bridge, later ones do, too, and nothing is left.
func TestN11_CarriedNeedsLo(t *testing.T) {
	t.Parallel()
	for name, command := range map[string][]string{
		"down":     {"ip", "link", "set", "lo", "down"},
		"filtered": {"nft", "table inet f { chain i { type filter hook input priority 0; iif lo ip saddr != 127.0.0.0/8 drop; iif lo ip6 saddr != ::1 drop; }; }"},
	} {
		for i := range 2 {
			t.Run(fmt.Sprint(name, i), func(t *testing.T) {
				t.Parallel()
				n := newNeighbours(t, "always")
				m := []*member{n.app, n.db}[i]
				if out, err := m.Run(timeout(t, deadline), needs(t, command[0]), command[1:]...); err != nil {
					t.Fatalf("%q: %v: %s", command, err, out)
				}
				eachFamily(t, func(t *testing.T, f family) {
					for range 2 {
						join(t, n.app, n.db, f).stays(t)
						join(t, n.db, n.app, f).stays(t)
					}
				})
				noRules(t, n.app.Guest)
				noRules(t, n.db.Guest)
			})
		}
	}
}

// TestN11_CarriedWaitsForCaptures: whoever captures a network sees its connections whole. So it
// is with --bulk=never of either member.
func TestN11_CarriedWaitsForCaptures(t *testing.T) {
	t.Parallel()
	for name, bulk := range map[string][2]string{"captured": {"always", "always"}, "app never": {"never", "always"}, "db never": {"always", "never"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := &neighbours{networks: newNetworks(t)}
			n.join(t, bulk[0], bulk[1])
			var h *harness.Helper
			if name == "captured" {
				n.warmUp(t)
				h = n.start(t, "pcap", "--network", "web", "--snaplen=96")
				eventually(t, deadline, func() error {
					if h.Stdout.String() == "" {
						return fmt.Errorf("no capture yet: %s", h.Stderr)
					}
					return nil
				})
			}
			eachFamily(t, func(t *testing.T, f family) {
				join(t, n.app, n.db, f).stays(t)
				join(t, n.db, n.app, f).stays(t)
			})
			if h != nil {
				h.Kill()
				eachFamily(t, func(t *testing.T, f family) { join(t, n.app, n.db, f).handOver(t) })
			}
		})
	}
}

// TestN11_CarriedLeavesContainersAlone: connections of a container in a member, whose address
// the member translates, stay on the bridge.
func TestN11_CarriedLeavesContainersAlone(t *testing.T) {
	t.Parallel()
	n := newNeighbours(t, "always")
	ns := n.app.containerBehind(t, n.app.Interface)
	nft := needs(t, "nft")
	for _, f := range families() {
		rules := fmt.Sprintf("add table %[1]s nat; add chain %[1]s nat post { type nat hook postrouting priority 100; }; "+
			"add rule %[1]s nat post oif eth0 %[1]s saddr %[2]s masquerade; "+
			"add chain %[1]s nat pre { type nat hook prerouting priority -100; }; "+
			"add rule %[1]s nat pre iif eth0 tcp dport 8088 dnat to %[3]s", nftFamily[f.v], inner[f.v], net.JoinHostPort(inner[f.v], "8088"))
		if out, err := n.app.Run(timeout(t, deadline), nft, rules); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	eachFamily(t, func(t *testing.T, f family) {
		join(t, n.app, n.db, f).handOver(t).close() // the member's own leave
		out := serveTCP(t, n.db.NetNS, "tcp"+f.v, net.JoinHostPort(n.db.address(f), "0"), echoTCP)
		serveTCP(t, ns, "tcp"+f.v, net.JoinHostPort(inner[f.v], "8088"), echoTCP)
		for to, from := range map[string]*harness.NetNS{out.String(): ns, net.JoinHostPort(n.app.address(f), "8088"): n.db.NetNS} {
			c := must(from.Dial(timeout(t, deadline), "tcp"+f.v, to))(t)
			t.Cleanup(func() { c.Close() })
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			before := receivedBy(t, n.db.Guest, "eth0")
			for range 20 {
				if err := echoes(c, strings.Repeat("x", 200_000)); err != nil {
					t.Fatal(err)
				}
			}
			if n := receivedBy(t, n.db.Guest, "eth0") - before; n < 20*200_000 {
				t.Errorf("%d bytes came by the device", n)
			}
		}
	})
	noRules(t, n.app.Guest)
	noRules(t, n.db.Guest)
}

// TestN11_CarriedOnTwoNetworks: connections of a guest leave the bridges of both of its networks.
// It keeps them when it removes rules that it does not know.
func TestN11_CarriedOnTwoNetworks(t *testing.T) {
	t.Parallel()
	n := newNeighbours(t, "always")
	behind := n.attach(t, "back", "app", n.app.PID, "--bulk=always")
	cache := n.run(t, "back", "cache", "--bulk=always")
	eachFamily(t, func(t *testing.T, f family) {
		all := []*joined{join(t, n.app, n.db, f), join(t, behind, cache, f), join(t, n.db, n.app, f), join(t, cache, behind, f)}
		for _, j := range all {
			j.handOver(t)
		}
		for range 2 {
			for _, m := range []*member{n.app, n.db, cache} {
				if err := m.Do(func() error {
					rules, err := netlink.RuleList(f.af)
					rules = slices.DeleteFunc(rules, func(r netlink.Rule) bool { return r.Sport == nil })
					for _, r := range rules {
						err = errors.Join(err, netlink.RuleDel(&r))
					}
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			for i, j := range all {
				if err := errors.Join(j.exchange(100_000), j.left()); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
			}
		}
		for _, j := range all {
			j.close()
		}
		for _, m := range []*member{n.app, n.db, cache} {
			noRules(t, m.Guest)
		}
	})
}

// TestN11_CarriedEndIsDelivered: what a member has sent and ended in order reaches its neighbour,
// also when the member ends before the neighbour has read it.
func TestN11_CarriedEndIsDelivered(t *testing.T) {
	t.Parallel()
	for i, who := range []string{"asked", "was asked"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			n := newNeighbours(t, "always")
			from, to := n.db, n.app
			if i == 1 {
				from, to = to, from
			}
			j := join(t, from, to, families()[0]).handOver(t)
			// More than the neighbour's kernel takes for it, and less than the sockets between do.
			if err := onFD(j.ends[1-i], func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10) }); err != nil {
				t.Fatal(err)
			}
			data := random(9, 400_000)
			if _, err := j.ends[i].Write(data); err != nil {
				t.Fatal(err)
			}
			eventually(t, deadline, func() error {
				var left int
				err := onFD(j.ends[i], func(fd int) (err error) {
					left, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
					return err
				})
				if err == nil && left > 0 {
					err = fmt.Errorf("%d bytes are not acknowledged", left)
				}
				return err
			})
			if err := j.ends[i].CloseWrite(); err != nil {
				t.Fatal(err)
			}
			_ = n.db.helper.Signal(unix.SIGTERM)
			if got, err := io.ReadAll(j.ends[1-i]); err != nil || !slices.Equal(got, data) {
				t.Errorf("%d bytes of %d came, %v", len(got), len(data), err)
			}
		})
	}
}
