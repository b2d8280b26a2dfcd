package bridge

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// With an end, or a reset, or a SYN, or the departure of a member the connection is followed no
// more, and whoever waits is told.
func TestEnding(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(*talk)
		anew int // who asks for the connection that is followed instead; -1: there is none
	}{
		"FIN":                  {func(k *talk) { k.say(0, segment{flags: flagFIN, seq: 1, ack: 1}) }, -1},
		"FIN of the second":    {func(k *talk) { k.say(1, segment{flags: flagFIN, seq: 1, ack: 1}) }, -1},
		"FIN with data":        {func(k *talk) { k.say(0, segment{flags: flagFIN, seq: 1, ack: 1, data: []byte("bye")}) }, -1},
		"RST":                  {func(k *talk) { k.say(0, segment{flags: flagRST, seq: 1}) }, -1},
		"RST of the second":    {func(k *talk) { k.say(1, segment{flags: flagRST, seq: 1}) }, -1},
		"SYN":                  {func(k *talk) { k.say(0, segment{flags: flagSYN, seq: 70000}) }, 0},
		"SYN of the second":    {func(k *talk) { k.say(1, segment{flags: flagSYN, seq: 70000}) }, 1},
		"SYN with other flags": {func(k *talk) { k.say(0, segment{flags: flagSYN | header.TCPFlagEce | header.TCPFlagCwr}) }, 0},
		"departure":            {func(k *talk) { k.bridge.Remove(k.ports[0]) }, -1},
		"departure of second":  {func(k *talk) { k.bridge.Remove(k.ports[1]) }, -1},
		"vanished device": {func(k *talk) {
			k.devs[0].Fail(unix.EBADFD)
			k.poller.Ready(k.devs[0].FD(), unix.EPOLLIN)
			k.turn()
		}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTalk(t, Config{})
			other := k.open()
			k.addrs[0] = at(me.IPv4, 1001)
			c := k.open()
			told := 0
			c.Await(func() {
				if told++; !c.Ending() {
					t.Error("told before it ends")
				}
				c.Stay() // as who gives up does
			})
			tc.end(k)
			if told != 1 {
				t.Errorf("told %d times", told)
			}
			for i := range 2 {
				if _, ok := c.Frozen(i); ok || !c.Ending() {
					t.Error("it can still be continued")
				}
			}
			switch d := k.conn(); {
			case d == c:
				t.Error("it is still followed")
			case (d != nil) != (tc.anew >= 0):
				t.Errorf("another one is followed: %v", d != nil)
			case d != nil && d.Port(0) != k.ports[tc.anew]:
				t.Errorf("%v has asked for the other one", d.Addr(0))
			}
			if gone := strings.Contains(name, "depart") || strings.Contains(name, "vanish"); gone != other.Ending() {
				t.Errorf("an earlier connection is ending: %v", other.Ending())
			}
			c.Forget() // does no harm to what has taken its place
			if d := k.conn(); (d != nil) != (tc.anew >= 0) {
				t.Errorf("after Forget another one is followed: %v", d != nil)
			}
		})
	}
}

// A connection between the same addresses is followed from its beginning.
func TestFollowedAnew(t *testing.T) {
	k := newTalk(t, Config{})
	k.open(slices.Concat(mss1460, scale(7)), slices.Concat(mss1460, scale(7)))
	k.say(0, segment{flags: flagRST, seq: 1})
	k.first = [2]uint32{7, 8}
	if f := k.frozen(k.open(mss1400)); f[0].SendNext != 9 || f[1].SendNext != 8 || f[0].MSS != 1400 || f[0].SendScale != 0 {
		t.Errorf("it goes on as %+v", f[0])
	}
}

// Both members ask at once (RFC 9293 section 3.5, figure 8): the one whose SYN came last has
// asked, and the other one has answered.
func TestBothAsk(t *testing.T) {
	k := newTalk(t, Config{})
	k.say(0, segment{flags: flagSYN, options: mss1460})
	k.say(1, segment{flags: flagSYN, options: mss1400})
	k.say(0, segment{flags: flagSYNACK, ack: 1, options: mss1460})
	k.say(1, segment{flags: flagSYNACK, ack: 1, options: mss1400})
	k.say(0, segment{seq: 1, ack: 1})
	k.say(1, segment{seq: 1, ack: 1})
	f := k.frozen(k.conn())
	if f[0].Guest != k.addrs[1] || f[0].MSS != 1400 || f[1].MSS != 1460 || f[0].SendNext != k.first[0]+1 || f[1].SendNext != k.first[1]+1 {
		t.Errorf("the sockets are %+v", f)
	}
}

// Nothing but a connection's own segments, between its own ports, changes it.
func TestUndisturbed(t *testing.T) {
	reset := func(k *talk) segment { return segment{flags: flagRST, seq: k.first[0] + 1} }
	for name, frame := range map[string]func(*talk) []byte{
		"to another member's MAC": func(k *talk) []byte {
			return ethernet(me.MAC, member(2).MAC, reset(k).tcp(k.addrs[0], k.addrs[1]).Frame())
		},
		"of another connection": func(k *talk) []byte {
			return ethernet(me.MAC, you.MAC, reset(k).tcp(k.addrs[0], at(you.IPv4, 81)).Frame())
		},
		"in a fragment": func(k *talk) []byte {
			p := reset(k).tcp(k.addrs[0], k.addrs[1])
			p.More, p.Payload = true, append(p.Payload, make([]byte, 4)...)
			return ethernet(me.MAC, you.MAC, p.Frame())
		},
		"cut short": func(k *talk) []byte {
			p := reset(k).tcp(k.addrs[0], k.addrs[1])
			p.Payload = p.Payload[:header.TCPMinimumSize-1]
			return ethernet(me.MAC, you.MAC, p.Frame())
		},
		"with a data offset beyond": func(k *talk) []byte {
			p := reset(k).tcp(k.addrs[0], k.addrs[1])
			p.Payload[header.TCPDataOffset] = 0xf0
			return ethernet(me.MAC, you.MAC, p.Frame())
		},
		"UDP": func(k *talk) []byte { return udp(0, you.MAC, k.addrs[0], k.addrs[1]) },
		"the answer to a SYN by the one that has asked": func(k *talk) []byte {
			return k.frame(0, segment{flags: flagSYNACK, seq: 70000, ack: 70000, options: mss1400})
		},
	} {
		k := newTalk(t, Config{})
		c := k.open(mss1460, mss1460)
		told := 0
		c.Await(func() { told++ })
		before := k.frozen(c)
		if got := k.send(0, frame(k)); len(got) != 1 {
			t.Errorf("%s: got by %v", name, got)
		}
		if k.conn() != c || !reflect.DeepEqual(k.frozen(c), before) || told > 0 {
			t.Errorf("%s: a connection has changed, and was told %d times", name, told)
		}
	}
}

// While a connection is frozen its segments are dropped, and it knows nothing of them.
func TestFreeze(t *testing.T) {
	k := newTalk(t, Config{})
	c := k.open()
	told := 0
	c.Await(func() { told++ })
	before := k.frozen(c)
	c.Freeze()
	for _, s := range []segment{{seq: 1, ack: 1, window: 9}, {seq: 1, ack: 1, data: []byte("hello")}, {flags: flagFIN, seq: 1, ack: 1}, {flags: flagRST, seq: 1}} {
		if k.passes(0, s) || k.passes(1, s) {
			t.Errorf("%+v passes before", s)
		}
	}
	if k.conn() != c || told > 0 || !reflect.DeepEqual(k.frozen(c), before) {
		t.Errorf("it has changed, and was told %d times", told)
	}
	k.addrs[0] = at(me.IPv4, 1001)
	k.open()
	k.addrs[0] = at(me.IPv4, 1000)
	c.Stay()
	k.push(0, 5)
	k.say(1, segment{seq: 1, ack: 6})
	if k.conn() != c || !c.Acknowledged(0) {
		t.Error("it does not go on")
	}
	c.Freeze()
	k.say(0, segment{flags: flagSYN})
	if k.conn() == c || !c.Ending() {
		t.Error("a SYN does not end it")
	}
}

// What a member still sends of a connection that has left is dropped and told, until it is
// forgotten.
func TestLeave(t *testing.T) {
	adopt := func(k *talk, strayed func(int)) *Conn {
		return k.bridge.Adopt([2]*Port{k.ports[0], k.ports[1]}, k.addrs, strayed)
	}
	for name, leave := range map[string]func(*talk, func(int)) *Conn{
		"leave": func(k *talk, strayed func(int)) *Conn {
			c := k.open()
			c.Await(func() { t.Error("told of a connection that has left") })
			c.Leave(strayed)
			return c
		},
		"adopt":             adopt,
		"adopt one that is": func(k *talk, strayed func(int)) *Conn { k.open(); return adopt(k, strayed) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, v6 := range []bool{false, true} {
				k := newTalk(t, Config{})
				k.follow(0, 0)
				if v6 {
					k.addrs = [2]netip.AddrPort{at(me.IPv6, 1000), at(you.IPv6, 80)}
				}
				var strayed []int
				c := leave(k, func(i int) { strayed = append(strayed, i) })
				if k.conn() != c || c.Ending() {
					t.Fatal("it is no longer there")
				}
				for _, s := range []segment{
					{seq: 1, ack: 1}, {seq: 1, ack: 1, data: []byte("hello")}, {flags: flagSYN}, {flags: flagSYNACK},
					{flags: flagFIN}, {flags: flagRST},
				} {
					strayed = nil
					if k.passes(0, s) || k.passes(1, s) {
						t.Errorf("%+v passes", s)
					}
					if !slices.Equal(strayed, []int{0, 1}) {
						t.Errorf("%+v has strayed from %v", s, strayed)
					}
				}
				left := k.addrs
				strayed = nil
				k.addrs[0] = at(k.addrs[0].Addr(), 1001)
				if d := k.open(); d == c || len(strayed) > 0 {
					t.Error("another connection is this one")
				}
				k.addrs = left
				c.Forget()
				if k.conn() != nil {
					t.Error("it is not forgotten")
				}
				k.push(0, 5)
				k.push(1, 5)
				if k.conn() != nil || len(strayed) > 0 {
					t.Errorf("forgotten, its segments have strayed from %v", strayed)
				}
				k.open()
				if len(k.bridge.conns) != 4 {
					t.Errorf("%d directions of two connections are followed", len(k.bridge.conns))
				}
				if len(k.busy) > 0 && slices.Contains(k.busy, c) {
					t.Error("Busy was called with one that has left")
				}
			}
		})
	}
}

// Whoever comes to an address later has nothing to do with what has left.
func TestLeftConnectionGoesWithThePort(t *testing.T) {
	for i := range 2 {
		k := newTalk(t, Config{})
		c := k.open()
		c.Await(func() { t.Error("told of a connection that has left") })
		c.Leave(func(int) { t.Error("strayed") })
		k.bridge.Remove(k.ports[i])
		if !c.Ending() || k.conn() != nil {
			t.Fatalf("%d has gone: the connection is still there", i)
		}
		var err error
		if k.ports[i], err = k.bridge.Add(k.devs[i], member(i)); err != nil {
			t.Fatal(err)
		}
		k.push(0, 5)
		k.push(1, 5)
		c.Forget()
	}
}

// batches is a stack that reads ten frames at a time.
type batches struct{ *reader }

func (r batches) Ready(uint32) {
	for range 10 {
		r.bridge.Readv(r.iov)
	}
}

// ReadAll forwards what waits, and does not go on without end with a member that floods.
func TestReadAll(t *testing.T) {
	for _, tc := range []struct{ waiting, read int }{{0, 0}, {1, 1}, {10, 10}, {500, 500}, {1000, 10 * readAllMost}} {
		k := newTalk(t, Config{})
		c := k.open()
		k.bridge.Attach(batches{k.reader})
		for i := range tc.waiting {
			k.devs[0].Inject(k.frame(0, segment{seq: 1 + uint32(i), ack: 1, data: []byte{1}}))
		}
		c.Port(0).ReadAll()
		if got, left := len(k.devs[1].Sent()), k.devs[0].Waiting(); got != tc.read || left != tc.waiting-tc.read {
			t.Errorf("of %d frames %d have arrived, and %d wait", tc.waiting, got, left)
		}
		if next := c.ends[0].next - k.first[0]; next != 1+uint32(tc.read) {
			t.Errorf("after %d frames the connection is at %d", tc.read, next)
		}
		k.devs[0].Fail(unix.EBADFD)
		if k.conn() != c {
			t.Fatal("gone too early")
		}
		c.Port(0).ReadAll() // the device vanishes while it is read
		if k.conn() != nil || !c.Ending() {
			t.Error("the connection of a device that has vanished is still there")
		}
	}
}

// Following takes no memory for each segment, either.
func TestFollowingAllocatesNothing(t *testing.T) {
	for name, left := range map[string]bool{"followed": false, "left": true} {
		n, from, to := newTreadmill(t, nil)
		n.bridge.cfg.Busy = func(*Conn) {}
		ports := n.bridge.table.Load().ports
		for _, p := range ports {
			p.Follow(0)
		}
		addrs := [2]netip.AddrPort{at(me.IPv6, 1000), at(you.IPv6, 80)}
		read := func(i int, s segment) {
			devs := [2]*treadmill{from, to}
			frame := ethernet(member(i).MAC, member(1-i).MAC, s.tcp(addrs[i], addrs[1-i]).Frame())
			devs[i].frame, devs[i].left = append(make([]byte, header.VirtioNetHeaderSize), frame...), 1
			n.bridge.current = ports[i]
			n.bridge.Readv(n.reader.iov)
		}
		read(0, segment{flags: flagSYN, options: stamp(1)})
		read(1, segment{flags: flagSYNACK, ack: 1, options: stamp(1)})
		read(1, segment{seq: 1, ack: 1, options: stamp(2)})
		c := n.bridge.conns[tuple{addrs[0], addrs[1]}].conn
		strayed := 0
		if left {
			c.Leave(func(int) { strayed++ })
		}
		read(0, segment{seq: 1, ack: 1, options: stamp(2), data: make([]byte, 3000)})
		if got := testing.AllocsPerRun(100, func() {
			from.left = 1
			n.bridge.Readv(n.reader.iov)
		}); got > 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
		if left && strayed != 102 || !left && c.ends[0].next != 3001 {
			t.Errorf("%s: %d segments have strayed, and the first one is at %d", name, strayed, c.ends[0].next)
		}
	}
}
