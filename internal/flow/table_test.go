package flow

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"epiphyte/internal/shard"
	"epiphyte/internal/shard/shardtest"
)

// rig is a table on a shard whose clock moves when told.
type rig struct {
	t      *testing.T
	clock  *shardtest.Clock
	poller *shardtest.Poller
	shard  *shard.Shard
	table  *Table
	ended  []end // by the table, in order
}

type end struct {
	port uint16 // of the guest
	why  Reason
}

// owner notes that its flow was ended.
type owner struct {
	r *rig
	f *Flow
}

func (o *owner) End(why Reason) {
	if o.f.listed || o.r.table.Find(o.f.Kind, o.f.Proto, o.f.Src, o.f.Remote) == o.f {
		o.r.t.Errorf("the flow of port %d is ended while in the table", o.f.Src.Port())
	}
	o.r.table.Remove(o.f) // which owners may do, and must do nothing
	o.r.ended = append(o.r.ended, end{o.f.Src.Port(), why})
}

func newRig(t *testing.T, limits Limits) *rig {
	t.Helper()
	r := &rig{t: t, clock: new(shardtest.Clock), poller: new(shardtest.Poller)}
	var err error
	if r.shard, err = shard.New(shard.Config{Clock: r.clock, Poller: r.poller}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.shard.Close() })
	r.table = New(r.shard, limits)
	return r
}

var (
	guest = netip.MustParseAddr("10.0.2.100")
	other = netip.MustParseAddr("10.0.2.101")
	there = netip.MustParseAddrPort("192.0.2.1:80")
)

// add enters a flow of a guest address and port. Mappings have no remote.
func (r *rig) add(k Kind, a netip.Addr, port uint16, idle time.Duration) *Flow {
	f := &Flow{Guest: &Guest{Name: "g"}, Kind: k, Proto: unix.IPPROTO_TCP, Src: netip.AddrPortFrom(a, port), FD: 3, Idle: idle}
	if k != Mapping {
		f.Remote = there
	}
	f.Owner = &owner{r, f}
	r.table.Add(f)
	return f
}

// pass lets time pass, and what is due then happen.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	r.clock.Advance(d)
	if err := r.shard.Turn(0); err != nil {
		r.t.Fatal(err)
	}
}

// ports are those of the flows of a kind, in order.
func (r *rig) ports(k Kind) (list []uint16) {
	r.table.Each(k, func(f *Flow) { list = append(list, f.Src.Port()) })
	return list
}

func (r *rig) wantPorts(k Kind, want ...uint16) {
	r.t.Helper()
	if got := r.ports(k); !slices.Equal(got, want) || r.table.Count(k) != len(want) {
		r.t.Errorf("flows of kind %d: %v, counted %d; want %v", k, got, r.table.Count(k), want)
	}
}

// wantEnded checks which flows the table has ended since the last call.
func (r *rig) wantEnded(want ...end) {
	r.t.Helper()
	if !slices.Equal(r.ended, want) {
		r.t.Errorf("ended: %v, want %v", r.ended, want)
	}
	r.ended = nil
}

func TestOrderOfLastUse(t *testing.T) {
	for k := range kinds {
		r := newRig(t, Limits{})
		var flows []*Flow
		for port := range uint16(4) {
			flows = append(flows, r.add(k, guest, port, 0))
		}
		r.wantPorts(k, 0, 1, 2, 3)
		r.table.Used(flows[0])
		r.table.Used(flows[3])
		r.table.Used(flows[1])
		r.wantPorts(k, 2, 0, 3, 1)
		r.table.Remove(flows[2])
		r.table.Remove(flows[3])
		r.wantPorts(k, 0, 1)
		r.table.Used(flows[0])
		r.wantPorts(k, 1, 0)
	}
}

// A flow is taken out once; what comes after changes nothing of the others.
func TestRemovedFlowIsOut(t *testing.T) {
	r := newRig(t, Limits{})
	one, two, three := r.add(Mapping, guest, 1, 0), r.add(Mapping, guest, 2, 0), r.add(Mapping, guest, 3, 0)
	for range 2 {
		r.table.Remove(two)
		r.table.Used(two)
		r.wantPorts(Mapping, 1, 3)
	}
	r.table.Establish(two)
	r.wantPorts(Mapping, 1, 3)
	r.wantPorts(Conn)
	r.table.Remove(one)
	r.table.Remove(three)
	r.table.Used(one)
	r.wantPorts(Mapping)
	r.wantEnded() // Remove is the owners' own: they are told nothing
	r.add(Mapping, guest, 4, 0)
	r.wantPorts(Mapping, 4)
}

func TestFind(t *testing.T) {
	r := newRig(t, Limits{})
	find := func(k Kind, f *Flow) *Flow { return r.table.Find(k, f.Proto, f.Src, f.Remote) }
	for _, k := range []Kind{Dial, Mapping, Session} {
		f := r.add(k, guest, 1, 0)
		if find(k, f) != f {
			t.Errorf("kind %d: not found", k)
		}
		for _, not := range []Flow{
			{Proto: unix.IPPROTO_UDP, Src: f.Src, Remote: f.Remote},
			{Proto: f.Proto, Src: netip.AddrPortFrom(guest, 2), Remote: f.Remote},
			{Proto: f.Proto, Src: netip.AddrPortFrom(other, 1), Remote: f.Remote},
			{Proto: f.Proto, Src: f.Src, Remote: netip.AddrPortFrom(there.Addr(), 81)},
		} {
			if find(k, &not) != nil {
				t.Errorf("kind %d: found by protocol %d, %v to %v", k, not.Proto, not.Src, not.Remote)
			}
		}
		r.table.Remove(f)
		if find(k, f) != nil {
			t.Errorf("kind %d: found after Remove", k)
		}
	}
	for _, k := range []Kind{Conn, Client, Exposed} {
		if f := r.add(k, guest, 1, 0); find(k, f) != nil {
			t.Errorf("kind %d: found, though its traffic does not come by address", k)
		}
	}
}

// The guest may use the ports of a connection anew as soon as it is established: to
// the table that is another one.
func TestEstablish(t *testing.T) {
	r := newRig(t, Limits{})
	dial, client, exposed := r.add(Dial, guest, 1, 0), r.add(Client, guest, 2, 0), r.add(Exposed, guest, 3, 0)
	for _, f := range []*Flow{dial, client, exposed} {
		r.table.Establish(f)
		if f.State != Established {
			t.Errorf("port %d is %v", f.Src.Port(), f.State)
		}
	}
	r.wantPorts(Dial)
	r.wantPorts(Client)
	r.wantPorts(Conn, 1, 2)
	r.wantPorts(Exposed, 3)
	if got := r.table.Find(Dial, dial.Proto, dial.Src, dial.Remote); got != nil {
		t.Error("an established connection is found as a dial")
	}
	again := r.add(Dial, guest, 1, 0)
	r.table.Remove(dial)
	if got := r.table.Find(Dial, dial.Proto, dial.Src, dial.Remote); got != again {
		t.Error("the dial of the same ports went with the old connection")
	}
	if n := r.table.Totals().Connections; n != 3 {
		t.Errorf("%d connections in all, want 3", n)
	}
}

// Totals are of connections alone, living and ended, and each byte counts once.
func TestTotals(t *testing.T) {
	r := newRig(t, Limits{})
	dial, exposed, mapping := r.add(Dial, guest, 1, 0), r.add(Exposed, guest, 2, 0), r.add(Mapping, guest, 3, 0)
	r.table.Establish(dial)
	r.table.Establish(exposed)
	dial.In, dial.Out = 1, 20
	exposed.In, exposed.Out = 300, 4000
	mapping.In, mapping.Out = 50000, 50000
	want := Totals{Connections: 2, In: 301, Out: 4020}
	check := func(when string) {
		t.Helper()
		if got := r.table.Totals(); got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	check("both living")
	r.table.Remove(dial)
	r.table.Remove(dial)
	r.table.Remove(mapping)
	check("one ended")
	exposed.In++
	want.In++
	check("one byte more")
	r.table.Close()
	check("closed")
}

// Idle mappings and sessions end when their time is over, not before; use puts the
// end off, and a longer time given later holds.
func TestExpiry(t *testing.T) {
	r := newRig(t, Limits{})
	long := r.add(Mapping, guest, 1, 240*time.Second)
	short := r.add(Mapping, guest, 2, 10*time.Second) // though the first is looked for much later
	r.add(Session, guest, 3, 20*time.Second)
	r.add(Mapping, guest, 4, 0) // never
	r.add(Dial, guest, 5, 0)
	r.pass(10*time.Second - 1)
	r.wantEnded()
	r.table.Used(long)
	r.pass(1)
	r.wantEnded(end{2, Expired})
	r.pass(10 * time.Second)
	r.wantEnded(end{3, Expired})

	growing := r.add(Mapping, guest, 6, 10*time.Second)
	growing.Idle = 30 * time.Second
	r.pass(10 * time.Second)
	r.wantEnded()
	r.pass(20 * time.Second)
	r.wantEnded(end{6, Expired})

	r.pass(200*time.Second - 2)
	r.wantEnded()
	r.pass(time.Second) // looked for at most once a second
	r.wantEnded(end{1, Expired})
	r.wantPorts(Mapping, 4)
	r.wantPorts(Dial, 5)
	if r.table.Count(Session) != 0 || short.listed {
		t.Error("expired flows are in the table")
	}
	if r.shard.Armed(&r.table.timer) {
		t.Error("a timer is armed with nothing to expire")
	}
}

// However many flows expire shortly one after the other, the shard wakes once a
// second for them.
func TestExpiryIsLookedForOnceASecond(t *testing.T) {
	r := newRig(t, Limits{})
	for port := range uint16(100) {
		r.add(Mapping, guest, port, 10*time.Second)
		r.pass(10 * time.Millisecond)
	}
	r.pass(9 * time.Second)
	wakes := 0
	for r.table.Count(Mapping) > 0 && wakes < 100 {
		r.poller.Waits()
		if err := r.shard.Turn(-1); err != nil {
			t.Fatal(err)
		}
		waits := r.poller.Waits()
		if len(waits) != 1 || waits[0] < 0 {
			t.Fatalf("the shard waits for %v with %d flows to expire", waits, r.table.Count(Mapping))
		}
		r.pass(waits[0])
		wakes++
	}
	if wakes > 3 {
		t.Errorf("the shard woke %d times", wakes)
	}
}

// Close ends all of every kind, and leaves no timer.
func TestClose(t *testing.T) {
	r := newRig(t, Limits{})
	for k := range kinds {
		r.add(k, guest, uint16(k), time.Minute)
	}
	r.table.Close()
	var want []end
	for k := range kinds {
		want = append(want, end{uint16(k), Closing})
		r.wantPorts(k)
	}
	r.wantEnded(want...)
	r.table.Close()
	r.wantEnded()
	r.pass(time.Hour)
	if r.shard.Armed(&r.table.timer) {
		t.Error("a timer is left")
	}
}

// What a listing says of a flow.
func TestAppend(t *testing.T) {
	r := newRig(t, Limits{})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	host := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))

	dial := r.add(Dial, guest, 1, 0)
	dial.FD, dial.State = -1, Deciding
	r.pass(time.Second)
	mapping := r.add(Mapping, guest, 2, 0)
	mapping.FD, mapping.State, mapping.Proto, mapping.In, mapping.Out = fd, Mapped, unix.IPPROTO_UDP, 7, 8
	ping := r.add(Mapping, guest, 3, 0)
	ping.FD, ping.State, ping.Proto, ping.Guest = -1, Mapped, unix.IPPROTO_ICMPV6, nil
	client := r.add(Client, guest, 4, 0)
	client.FD, client.Origin = -1, FromPublished
	r.table.Establish(client)
	r.pass(2 * time.Second)
	r.table.Used(mapping)
	r.pass(3 * time.Second)

	src := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(guest, port) }
	want := []Info{
		{Guest: "g", Proto: "tcp", Src: src(1), Remote: there, State: Deciding, Age: 6 * time.Second, Idle: 6 * time.Second},
		{Guest: "g", Proto: "tcp", Origin: FromPublished, Src: src(4), Remote: there, State: Established, Age: 5 * time.Second, Idle: 5 * time.Second},
		{Proto: "icmp", Src: src(3), State: Mapped, Age: 5 * time.Second, Idle: 5 * time.Second},
		{Guest: "g", Proto: "udp", Src: src(2), Host: host, State: Mapped, In: 7, Out: 8, Age: 5 * time.Second, Idle: 3 * time.Second},
	}
	if got := r.table.Append(nil); !slices.Equal(got, want) {
		t.Errorf("listed:\n%+v\nwant:\n%+v", got, want)
	}
}

// Every state and origin has a name of its own.
func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for s := Deciding; s <= Published; s++ {
		seen[s.String()] = true
	}
	if len(seen) != int(Published)+1 || seen[""] {
		t.Errorf("states: %v", seen)
	}
	clear(seen)
	for o := FromGuest; o <= FromExposed; o++ {
		seen[o.String()] = true
	}
	if len(seen) != int(FromExposed)+1 || seen[""] {
		t.Errorf("origins: %v", seen)
	}
}
