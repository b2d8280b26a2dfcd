package bridge

import (
	"net/netip"
	"slices"
	"testing"
)

// flood has member 0 ask member 1 for n connections from the port on, and then do with each of
// them what else is given.
func (k *talk) flood(port, n int, then ...segment) {
	k.t.Helper()
	for i := range n {
		src := at(me.IPv4, uint16(port+i))
		frames := [][]byte{ethernet(me.MAC, you.MAC, segment{flags: flagSYN}.tcp(src, k.addrs[1]).Frame())}
		for _, s := range then {
			frames = append(frames, ethernet(me.MAC, you.MAC, s.tcp(src, k.addrs[1]).Frame()))
		}
		if got := k.send(0, frames...); got[1] != len(frames) {
			k.t.Fatalf("a SYN from port %d was got by %v", port+i, got)
		}
	}
}

// A member that asks for connections without end has its oldest ones forgotten, and no others.
func TestFloodOfSYNs(t *testing.T) {
	const port = 2000
	k := newTalk(t, Config{})
	c := k.open()
	told := 0
	c.Await(func() { told++ })
	reverse := [2]netip.AddrPort{at(me.IPv4, 81), at(you.IPv4, 1000)}
	k.send(1, ethernet(you.MAC, me.MAC, segment{flags: flagSYN}.tcp(reverse[1], reverse[0]).Frame()))
	k.flood(port, mostFollowed-1)
	if k.conn() != c || told > 0 {
		t.Fatal("forgotten too early")
	}
	k.flood(port+mostFollowed-1, 1)
	if k.conn() != nil || told != 1 || !c.Ending() {
		t.Errorf("the oldest connection is still followed, and was told %d times", told)
	}
	k.flood(port+mostFollowed, 2*mostFollowed)
	if n, want := len(k.bridge.conns), 2*(mostFollowed+1); n != want {
		t.Errorf("%d directions are followed, want %d", n, want)
	}
	if k.bridge.conns[tuple{reverse[1], reverse[0]}].conn == nil {
		t.Error("a connection that the other one has asked for is forgotten")
	}
	for i := range mostFollowed {
		if k.bridge.conns[tuple{at(me.IPv4, uint16(port+2*mostFollowed+i)), k.addrs[1]}].conn == nil {
			t.Errorf("connection %d of the latest ones is forgotten", i)
		}
	}
	k.push(0, 5) // the oldest one stays on the bridge
	k.bridge.Remove(k.ports[0])
	if n := len(k.bridge.conns); n > 0 {
		t.Errorf("%d directions of a member that has gone are left", n)
	}
}

// A connection is not forgotten for the sake of others that have ended, or have left.
func TestFollowedBesideShortOnes(t *testing.T) {
	k := newTalk(t, Config{})
	c := k.open()
	k.flood(2000, 2*mostFollowed, segment{flags: flagRST})
	for i := range 64 {
		a := [2]netip.AddrPort{at(me.IPv4, uint16(9000+i)), k.addrs[1]}
		k.flood(int(a[0].Port()), 1)
		k.bridge.conns[tuple{a[0], a[1]}].conn.Leave(func(int) {})
		k.bridge.Adopt([2]*Port{k.ports[0], k.ports[1]}, [2]netip.AddrPort{at(me.IPv4, uint16(9100+i)), k.addrs[1]}, func(int) {})
	}
	k.flood(4000, mostFollowed-1)
	if k.conn() != c || c.Ending() {
		t.Error("it is forgotten")
	}
	if k.flood(5000, 1); k.conn() != nil {
		t.Error("it is followed beside as many as may be")
	}
}

// A connection may leave although it was forgotten while it was handed over, in favour of others.
func TestForgottenConnectionLeaves(t *testing.T) {
	k := newTalk(t, Config{})
	c := k.open()
	c.Await(func() {}) // too late to give up
	k.flood(2000, mostFollowed)
	if k.conn() != nil {
		t.Fatal("it is not forgotten")
	}
	var strayed []int
	c.Leave(func(i int) { strayed = append(strayed, i) })
	if k.passes(0, segment{seq: 1, ack: 1}) || k.passes(1, segment{seq: 1, ack: 1}) || !slices.Equal(strayed, []int{0, 1}) {
		t.Errorf("its segments pass, or have strayed from %v", strayed)
	}
	k.flood(4000, mostFollowed)
	if k.conn() != c {
		t.Error("forgotten once more")
	}
	c.Forget()
	if n := len(k.bridge.conns); n != 2*mostFollowed {
		t.Errorf("%d directions are followed", n)
	}
}

// Connections that have left go on elsewhere, whatever a member asks for.
func TestFloodOfSYNsKeepsWhatHasLeft(t *testing.T) {
	k := newTalk(t, Config{})
	strayed := 0
	c := k.open()
	c.Leave(func(int) { strayed++ })
	adopted := [2]netip.AddrPort{at(me.IPv4, 1001), k.addrs[1]}
	d := k.bridge.Adopt([2]*Port{k.ports[0], k.ports[1]}, adopted, func(int) { strayed++ })
	k.flood(2000, 3*mostFollowed)
	if n, most := len(k.bridge.conns), 2*(mostFollowed+2); n > most {
		t.Errorf("%d directions are followed, want %d at most", n, most)
	}
	if k.passes(0, segment{seq: 1}) || k.passes(1, segment{seq: 1}) {
		t.Error("a segment of a connection that has left passes")
	}
	k.addrs[0] = adopted[0]
	if k.passes(0, segment{seq: 1}) || k.passes(1, segment{seq: 1}) {
		t.Error("a segment of a connection that was adopted passes")
	}
	if strayed != 4 {
		t.Errorf("%d of 4 have strayed", strayed)
	}
	before := len(k.bridge.conns)
	c.Forget()
	d.Forget()
	if n := len(k.bridge.conns); n != before-4 {
		t.Errorf("%d directions are left of %d", n, before)
	}
	if k.push(0, 5); k.conn() != nil {
		t.Error("it is not forgotten")
	}
}
