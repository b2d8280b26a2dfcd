package policy

import (
	"container/list"

	"epiphyte/internal/flow"
)

// Pending is a decision to come. It belongs to the shard's thread.
// Its zero value is ready to use.
type Pending struct {
	waiting list.List // of func(Decision)
}

// Then has f called with the decision, once, unless forget is called first. A caller
// that stops waiting must call forget, or f stays registered until the decision.
func (p *Pending) Then(f func(Decision)) (forget func()) {
	e := p.waiting.PushBack(f)
	return func() { p.waiting.Remove(e) }
}

// Resolve gives the decision, which must not be Wait, to all that wait for it, in the order
// of Then.
func (p *Pending) Resolve(d Decision) {
	for e := p.waiting.Front(); e != nil; e = p.waiting.Front() {
		p.waiting.Remove(e).(func(Decision))(d)
	}
}

const (
	// backlogMax bounds the packets of a guest that wait for decisions; further ones are
	// lost, as in the kernel while it resolves a neighbour (arp(7), unres_qlen).
	backlogMax = 128
	// backlogAll bounds those of all guests, but for the first backlogOwn of each, which
	// others leave room for.
	backlogAll = 1024
	backlogOwn = 8
	// backlogBytes is the largest packet that waits.
	backlogBytes = 2048
)

// Backlog bounds the packets that wait for decisions. It holds none of them: the
// caller copies a packet before it waits. Its zero value is ready to use.
type Backlog struct {
	waiting map[*flow.Guest]int // those with packets that wait
	all     int
}

// Room reports whether a guest's packet of so many bytes may wait.
func (b *Backlog) Room(g *flow.Guest, size int) bool {
	n := b.waiting[g]
	return size <= backlogBytes && n < backlogMax && (n < backlogOwn || b.all < backlogAll)
}

// Hold has then called with the decision on a guest's packet of size bytes, and reports
// whether there was room: if not, the packet is lost.
func (b *Backlog) Hold(g *flow.Guest, p *Pending, size int, then func(Decision)) bool {
	if !b.Room(g, size) {
		return false
	}
	if b.waiting == nil {
		b.waiting = make(map[*flow.Guest]int)
	}
	b.waiting[g]++
	b.all++
	p.Then(func(d Decision) {
		b.all--
		if b.waiting[g]--; b.waiting[g] == 0 {
			delete(b.waiting, g)
		}
		then(d)
	})
	return true
}
