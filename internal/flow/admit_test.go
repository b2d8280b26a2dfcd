package flow

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds that give way make room by the flow used longest ago; the others are full.
func TestAdmit(t *testing.T) {
	limits := Limits{Dials: 3, TCP: 100, Mappings: 3, Clients: 3, Sessions: 3, Exposed: 3}
	for _, k := range []Kind{Dial, Mapping, Client, Session, Exposed} {
		r := newRig(t, limits)
		var flows []*Flow
		for port := range uint16(3) {
			if !r.table.Admit(k) {
				t.Fatalf("kind %d: no room with %d of 3", k, port)
			}
			flows = append(flows, r.add(k, guest, port, 0))
		}
		r.table.Used(flows[0])
		switch k {
		case Client, Exposed:
			if r.table.Admit(k) {
				t.Errorf("kind %d: room with 3 of 3", k)
			}
			r.wantEnded()
			r.table.Remove(flows[1])
			if !r.table.Admit(k) {
				t.Errorf("kind %d: no room with 2 of 3", k)
			}
		default:
			if !r.table.Admit(k) {
				t.Errorf("kind %d: nothing gave way", k)
			}
			r.wantEnded(end{1, Evicted})
			r.wantPorts(k, 2, 0)
		}
	}
}

// Of connections there are so many, made by the guest or by others. Dials give way
// to what is left for them, and not for nothing.
func TestAdmitWithinTCPLimit(t *testing.T) {
	r := newRig(t, Limits{TCP: 4, Dials: 4})
	for port := range uint16(2) {
		r.table.Establish(r.add(Client, guest, port, 0))
	}
	for port := range uint16(2) {
		if !r.table.Admit(Dial) {
			t.Fatal("no room with 2 connections of 4")
		}
		r.add(Dial, guest, 10+port, 0)
	}
	if !r.table.Admit(Dial) {
		t.Error("no dial gave way")
	}
	r.wantEnded(end{10, Evicted})
	r.table.Establish(r.add(Client, guest, 2, 0))
	r.table.Establish(r.add(Client, guest, 3, 0))
	if r.table.Admit(Dial) {
		t.Error("room with 4 connections of 4")
	}
	r.wantEnded()
	r.wantPorts(Dial, 11)
}

// One address that opens many displaces its own, not another's few, until that has
// its fair share.
func TestFairShare(t *testing.T) {
	for _, k := range []Kind{Dial, Mapping, Session} {
		r := newRig(t, Limits{Dials: 8, Mappings: 8, Sessions: 8})
		for port := range uint16(2) {
			r.add(k, other, port, 0)
		}
		for port := range uint16(100) {
			if !r.table.Admit(k) {
				t.Fatalf("kind %d: no room", k)
			}
			r.add(k, guest, 100+port, 0)
		}
		r.wantPorts(k, 0, 1, 194, 195, 196, 197, 198, 199)
		for port := range uint16(100) {
			r.table.Admit(k)
			r.add(k, other, 200+port, 0)
		}
		if got := r.table.share[k][guest]; got < 3 || got > 4 {
			t.Errorf("kind %d: %d of 8 are left to the first of two addresses", k, got)
		}
	}
}

// Dials give their descriptors before mappings; what has none is left alone, above
// all the dial that wants one.
func TestFreeDescriptor(t *testing.T) {
	r := newRig(t, Limits{})
	if r.table.FreeDescriptor() {
		t.Error("a descriptor came free of an empty table")
	}
	r.add(Dial, guest, 1, 0).FD = -1
	r.add(Dial, guest, 2, 0)
	r.add(Mapping, guest, 3, 0)
	r.add(Session, guest, 4, 0) // its descriptor is the port's
	r.table.Establish(r.add(Client, guest, 5, 0))
	for _, port := range []uint16{2, 3} {
		if !r.table.FreeDescriptor() {
			t.Errorf("no descriptor came free, want that of port %d", port)
		}
		r.wantEnded(end{port, Evicted})
	}
	if r.table.FreeDescriptor() {
		t.Error("a descriptor came free of what gives none")
	}
	r.wantPorts(Dial, 1)
	r.wantPorts(Session, 4)
	r.wantPorts(Conn, 5)
}

// model is the table in words: per kind a slice in the order of use.
type model struct {
	r      *rig
	limits Limits
	order  [kinds][]*Flow
}

func (m *model) full(k Kind) bool {
	n := len(m.order[k])
	switch k {
	case Dial:
		return n >= m.limits.Dials || n+len(m.order[Conn]) >= m.limits.TCP
	case Mapping:
		return n >= m.limits.Mappings
	case Session:
		return n >= m.limits.Sessions
	case Client:
		return n >= m.limits.Clients
	default:
		return n >= m.limits.Exposed
	}
}

func (m *model) victim(k Kind) *Flow {
	shares := make(map[netip.Addr]int)
	for _, f := range m.order[k] {
		shares[f.Src.Addr()]++
	}
	for _, f := range m.order[k] {
		if shares[f.Src.Addr()] >= len(m.order[k])/len(shares) {
			return f
		}
	}
	return nil
}

// admit says which flows have to give way, and whether that makes room.
func (m *model) admit(k Kind) (gone []end, ok bool) {
	if k == Dial && len(m.order[Conn]) >= m.limits.TCP {
		return nil, false
	}
	for m.full(k) {
		f := m.victim(k)
		if !k.evictable() || f == nil {
			return gone, false
		}
		m.remove(f)
		gone = append(gone, end{f.Src.Port(), Evicted})
	}
	return gone, true
}

func (m *model) remove(f *Flow) {
	m.order[f.Kind] = slices.DeleteFunc(m.order[f.Kind], func(g *Flow) bool { return f == g })
}

// expire says which flows end with their idle time.
func (m *model) expire(now time.Duration) (gone []end) {
	for _, k := range []Kind{Mapping, Session} {
		for _, f := range slices.Clone(m.order[k]) {
			if f.used+f.Idle <= now {
				m.remove(f)
				gone = append(gone, end{f.Src.Port(), Expired})
			}
		}
	}
	return gone
}

// check compares lists, counts, shares and index.
func (m *model) check() {
	t, table := m.r.t, m.r.table
	t.Helper()
	indexed := 0
	for k := range kinds {
		var got []*Flow
		table.Each(k, func(f *Flow) { got = append(got, f) })
		if !slices.Equal(got, m.order[k]) || table.Count(k) != len(got) {
			t.Fatalf("kind %d: %d flows, counted %d, want %d, or in another order", k, len(got), table.Count(k), len(m.order[k]))
		}
		if n := len(got); n > 0 && (table.kinds[k].last != got[n-1] || table.kinds[k].first.prev != nil || got[n-1].next != nil) {
			t.Fatalf("kind %d: the ends of the list are not its ends", k)
		}
		shares := make(map[netip.Addr]int)
		for _, f := range got {
			shares[f.Src.Addr()]++
			if !k.indexed() {
				continue
			}
			indexed++
			if table.Find(k, f.Proto, f.Src, f.Remote) != f {
				t.Fatalf("kind %d: port %d is not found", k, f.Src.Port())
			}
		}
		for a, n := range table.share[k] {
			if shares[a] != n {
				t.Fatalf("kind %d: %v is said to have %d flows, has %d", k, a, n, shares[a])
			}
		}
		if k.evictable() && len(table.share[k]) != len(shares) {
			t.Fatalf("kind %d: %d addresses, want %d", k, len(table.share[k]), len(shares))
		}
	}
	if len(table.index) != indexed {
		t.Fatalf("%d flows in the index, want %d", len(table.index), indexed)
	}
}

// step does one thing to table and model.
func (m *model) step(what, which byte, port uint16) {
	r := m.r
	k := [...]Kind{Dial, Mapping, Client, Session, Exposed}[which%5]
	pick := func() *Flow {
		all := slices.Concat(m.order[:]...)
		if len(all) == 0 {
			return nil
		}
		return all[int(which)%len(all)]
	}
	switch what % 8 {
	case 0, 1, 2:
		gone, ok := m.admit(k)
		if got := r.table.Admit(k); got != ok {
			r.t.Fatalf("kind %d admitted: %v, want %v", k, got, ok)
		}
		r.wantEnded(gone...)
		if ok {
			a := netip.AddrFrom4([4]byte{10, 0, 2, which % 7})
			m.order[k] = append(m.order[k], r.add(k, a, port, time.Duration(5+which%3)*time.Second))
		}
	case 3, 4:
		if f := pick(); f != nil {
			r.table.Used(f)
			m.remove(f)
			m.order[f.Kind] = append(m.order[f.Kind], f)
		}
	case 5:
		if f := pick(); f != nil {
			r.table.Remove(f)
			r.table.Remove(f)
			m.remove(f)
		}
	case 6:
		if f := pick(); f != nil && (f.Kind == Dial || f.Kind == Client) {
			m.remove(f)
			r.table.Establish(f)
			m.order[Conn] = append(m.order[Conn], f)
		}
	case 7:
		r.pass(time.Duration(1+which%3) * time.Second)
		r.wantEnded(m.expire(r.clock.Now())...)
	}
}

// FuzzTable does whatever may be done, in any order, and the lists, the index and
// the counts agree with a table that is written down in slices.
func FuzzTable(f *testing.F) {
	rnd := rand.NewChaCha8([32]byte{1})
	for range 50 {
		ops := make([]byte, 800)
		rnd.Read(ops)
		f.Add(ops)
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		limits := Limits{Dials: 12, TCP: 20, Mappings: 12, Clients: 5, Sessions: 9, Exposed: 5}
		m := &model{r: newRig(t, limits), limits: limits}
		for i := 0; i+1 < len(ops) && i < 1<<16; i += 2 {
			m.step(ops[i], ops[i+1], uint16(i))
			m.check()
		}
		m.r.table.Close()
		m.order = [kinds][]*Flow{}
		m.check()
	})
}

// Traffic of a flow that is known costs nothing that is to be collected.
func TestTrafficAllocatesNothing(t *testing.T) {
	r := newRig(t, Limits{})
	r.add(Mapping, guest, 1, time.Minute)
	r.add(Mapping, guest, 2, time.Minute)
	port := uint16(0)
	step := func() {
		port = port%2 + 1
		f := r.table.Find(Mapping, unix.IPPROTO_TCP, netip.AddrPortFrom(guest, port), netip.AddrPort{})
		r.table.Used(f)
	}
	if n := testing.AllocsPerRun(100, step); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
