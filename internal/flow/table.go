package flow

import (
	"net/netip"
	"time"

	"epiphyte/internal/shard"
)

// Table holds the flows of one shard. Its methods belong to the shard's thread.
type Table struct {
	shard  *shard.Shard
	limits Limits
	kinds  [kinds]order
	index  map[key]*Flow
	share  [kinds]map[netip.Addr]int // flows of each guest address, of kinds that may be evicted
	timer  shard.Timer
	due    time.Duration // when the timer fires, if it is armed
	totals Totals        // of flows that have ended

	tracer *tracer

	// OnFull is called once, when a flow is refused or gives way for the first time.
	// It may be nil.
	OnFull func()
}

// Totals are sums since the start.
type Totals struct {
	Connections uint64 // TCP connections that were established, by whomever
	In, Out     uint64 // bytes of TCP connections, towards and from the guest
	Refused     uint64 // flows for which there was no room
	Evicted     uint64 // flows that gave way to others
	Met         Met    // limits met by flows that were refused or gave way, and by clients that wait
	Carried     uint64 // TCP connections that were handed over to the guest's kernel
	Stayed      uint64 // failed attempts to hand one over

	Forbidden uint64   // flows of the guest's, and single datagrams, that were refused with an error
	Ignored   uint64   // likewise, without an error
	Dials     Failures // connections of the guest's that the host could not make
	Clients   Failures // clients of published ports that the guest did not accept
}

// key is how traffic finds its flow: plain bytes, with which Find takes 33 ns; with
// netip.AddrPort it takes 44. Conn, Client and Exposed flows are not indexed: they
// are found by descriptors and endpoints of their own.
type key struct {
	src, remote         [16]byte // IPv4 addresses v4-mapped
	srcPort, remotePort uint16
	kind                Kind
	proto               uint8
}

func keyOf(kind Kind, proto uint8, src, remote netip.AddrPort) key {
	return key{src.Addr().As16(), remote.Addr().As16(), src.Port(), remote.Port(), kind, proto}
}

func (f *Flow) key() key { return keyOf(f.Kind, f.Proto, f.Src, f.Remote) }

func (k Kind) indexed() bool   { return k != Conn && k != Exposed && k != Client }
func (k Kind) evictable() bool { return k == Dial || k == Mapping || k == Session }
func (k Kind) canExpire() bool { return k == Mapping || k == Session }

// New makes a table for a shard.
func New(s *shard.Shard, limits Limits) *Table {
	t := &Table{shard: s, limits: limits.withDefaults(), index: make(map[key]*Flow)}
	for k := range kinds {
		if k.evictable() {
			t.share[k] = make(map[netip.Addr]int)
		}
	}
	return t
}

// Add enters a flow, for which there is room: see Admit.
func (t *Table) Add(f *Flow) {
	f.begun = t.shard.Now()
	f.used = f.begun
	t.enter(f)
	t.traceBegun(f)
	if f.Idle > 0 && f.Kind.canExpire() {
		t.lookBefore(f.used + f.Idle)
	}
}

// lookBefore ensures that the next look for expired flows is no later than due.
func (t *Table) lookBefore(due time.Duration) {
	if due < t.due || !t.shard.Armed(&t.timer) {
		t.due = due
		t.shard.ArmAt(&t.timer, due, (*expiry)(t))
	}
}

func (t *Table) enter(f *Flow) {
	f.listed = true
	t.kinds[f.Kind].add(f)
	if f.Kind.indexed() {
		t.index[f.key()] = f
	}
	if share := t.share[f.Kind]; share != nil {
		share[f.Src.Addr()]++
	}
}

func (t *Table) leave(f *Flow) {
	f.listed = false
	t.kinds[f.Kind].remove(f)
	if k := f.key(); f.Kind.indexed() && t.index[k] == f {
		delete(t.index, k)
	}
	if share := t.share[f.Kind]; share != nil {
		a := f.Src.Addr()
		if share[a]--; share[a] == 0 {
			delete(share, a)
		}
	}
}

// Find is the flow of an indexed kind (Dial, Mapping, Session), or nil. A mapping
// has no remote.
func (t *Table) Find(kind Kind, proto uint8, src, remote netip.AddrPort) *Flow {
	if t.kinds[kind].count == 0 {
		return nil
	}
	return t.index[keyOf(kind, proto, src, remote)]
}

// Used notes traffic of either direction. For a flow that is not in the table it
// does nothing.
func (t *Table) Used(f *Flow) {
	if f.listed {
		f.used = t.shard.Now()
		t.kinds[f.Kind].toLast(f)
	}
}

// SetIdle changes the time without traffic after which a flow expires.
func (t *Table) SetIdle(f *Flow, idle time.Duration) {
	f.Idle = idle
	if f.listed && idle > 0 && f.Kind.canExpire() {
		t.lookBefore(f.used + idle)
	}
}

// Establish notes that a connection has both of its ends. A Dial or Client becomes a
// Conn.
func (t *Table) Establish(f *Flow) {
	t.totals.Connections++
	f.State = Established
	if f.Kind != Exposed && f.listed {
		t.leave(f)
		f.Kind = Conn
		t.enter(f)
	}
	t.traceEstablished(f)
}

// Carried counts a connection that was handed over to the guest's kernel, or stayed.
func (t *Table) Carried(left bool) {
	if left {
		t.totals.Carried++
	} else {
		t.totals.Stayed++
	}
}

// Remove takes a flow out. A second time it does nothing.
func (t *Table) Remove(f *Flow) { t.remove(f, "closed") }

// remove is Remove with the reason for the trace.
func (t *Table) remove(f *Flow, why string) {
	if !f.listed {
		return
	}
	t.leave(f)
	t.traceEnded(f, why)
	if f.Kind == Conn || f.Kind == Exposed {
		t.totals.In += f.In
		t.totals.Out += f.Out
	}
	if f.Ended != nil {
		f.Ended(t.shard.Now() - f.begun)
	}
}

// End evicts a flow, if it is in the table.
func (t *Table) End(f *Flow) {
	if f.listed {
		t.end(f, Evicted)
	}
}

// end has the owner end the flow.
func (t *Table) end(f *Flow, why Reason) {
	t.remove(f, why.String())
	f.Owner.End(why)
}

// Count is the number of flows of a kind.
func (t *Table) Count(k Kind) int { return t.kinds[k].count }

// Each calls do for the flows of a kind. do may remove the flow that it is called
// with, and no other.
func (t *Table) Each(k Kind, do func(*Flow)) {
	for f := t.kinds[k].first; f != nil; {
		next := f.next
		do(f)
		f = next
	}
}

// EachOf calls do for the flows of a guest, as Each does.
func (t *Table) EachOf(g *Guest, do func(*Flow)) {
	for k := range kinds {
		t.Each(k, func(f *Flow) {
			if f.Guest == g {
				do(f)
			}
		})
	}
}

// EndOf ends the flows of a guest.
func (t *Table) EndOf(g *Guest) {
	t.EachOf(g, func(f *Flow) { t.end(f, Evicted) })
}

// Close ends all flows. The shard must have stopped serving.
func (t *Table) Close() {
	t.shard.Disarm(&t.timer)
	for k := range kinds {
		for f := t.kinds[k].first; f != nil; f = t.kinds[k].first {
			t.end(f, Closing)
		}
	}
}

// expiry is the table as the task of its timer.
type expiry Table

// expiryPause is the least time between two looks for flows that have expired.
// Idle times are tens of seconds and more; without the pause a busy table would be
// searched once for each of its flows.
const expiryPause = time.Second

// Run implements shard.Task: it ends the flows whose idle time is over.
func (e *expiry) Run() {
	t := (*Table)(e)
	now := t.shard.Now()
	next := time.Duration(-1)
	for k := range kinds {
		if !k.canExpire() {
			continue
		}
		t.Each(k, func(f *Flow) {
			due := f.used + f.Idle
			switch {
			case f.Idle == 0:
			case due <= now:
				t.end(f, Expired)
			case next < 0 || due < next:
				next = due
			}
		})
	}
	if next >= 0 {
		t.lookBefore(max(next, now+expiryPause))
	}
}
